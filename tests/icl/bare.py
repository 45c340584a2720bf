"""Import this first in a subprocess: the package without its front door.

The front door registers a pipeline and so loads model libraries, which takes seconds; programs
of these tests need the one room only, and show by it what that room loads by itself.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

package = types.ModuleType("fungi_hf")
package.__path__ = [str(Path(__file__).parents[2] / "fungi_hf")]
sys.modules["fungi_hf"] = package
