"""The models and the records that come with them, under one name."""

from fungi_hf.errors import RequestFailedError
from fungi_hf.icl.chat import ChatLLM
from fungi_hf.icl.limits import Limits
from fungi_hf.icl.model import LLM
from fungi_hf.icl.reply import Reply, Usage
from fungi_hf.icl.sampling import Sampling

__all__ = ["LLM", "ChatLLM", "Limits", "Reply", "RequestFailedError", "Sampling", "Usage"]
