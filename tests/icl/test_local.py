"""LocalLLM: label scores equal the naive ones, generation is always a label, nothing is left."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fungi_hf.errors import ConfigError, InputError
from fungi_hf.icl import DemoSelector, Examples, LabelSpace, LocalLLM, PromptBuilder, evaluate
from fungi_hf.icl.llm import LLM
from fungi_hf.icl.local import content_free
from fungi_hf.icl.run import EvalResult
from fungi_hf.icl.scoring import batch, contextual, naive_scores, shared_prefix_scores, split_shared
from tests.icl.chat_kit import LABELS, NAMES, task
from tests.icl.local_kit import tiny_model, tiny_tokenizer, training_prompts

BANKING = Path(__file__).parents[2] / "recipes" / "data" / "banking77" / "labels.json"
CORPUS = [*task()[0].contents, *NAMES, "Text: Label: answer with the label alone"]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(CORPUS)


@pytest.fixture(scope="module")
def selector():
    return DemoSelector("bm25", k=4).fit(task()[0])


BUILDER = PromptBuilder(LABELS, style="completion")


def prompts(selector, n=6, builder=BUILDER):
    test = task(n_test=n)[1]
    demos = selector.select(test)
    return [builder.build(test.contents[i], demos[i]) for i in range(n)]


def test_the_shared_prefix_is_the_longest_one():
    rng = np.random.default_rng(0)
    for _ in range(200):
        prefix = rng.integers(0, 3, rng.integers(1, 6)).tolist()
        rows = [[*prefix, *rng.integers(0, 3, rng.integers(1, 5)).tolist(), 9] for _ in range(4)]
        encoded = split_shared(rows)
        assert [[*encoded.prefix, *suffix] for suffix in encoded.suffixes] == rows
        assert all(encoded.suffixes)
        firsts = {suffix[0] for suffix in encoded.suffixes}
        assert len(firsts) > 1 or len(set(map(tuple, rows))) == 1


@pytest.mark.parametrize("max_batch_tokens", [10**6, 500, 1], ids=["one pass", "few", "single"])
def test_scores_equal_a_forward_pass_per_label(model, tokenizer, selector, max_batch_tokens):
    llm = LocalLLM(model, tokenizer)
    for prompt in prompts(selector):
        encoded = llm.encode(prompt, LABELS)
        fast = shared_prefix_scores(model, encoded, max_batch_tokens)
        slow = naive_scores(model, encoded, 10**6)
        assert np.abs(fast - slow).max() < 1e-4
        assert slow.std() > 0.1  # labels differ, or the comparison would show nothing


def test_scores_equal_those_computed_token_by_token(model, tokenizer, selector):
    """Independent of batching and padding: one plain forward, no mask, no positions."""
    (prompt,) = prompts(selector, 1)
    encoded = LocalLLM(model, tokenizer).encode(prompt, LABELS)
    expected = []
    with torch.no_grad():
        for suffix in encoded.suffixes:
            tokens = torch.tensor([[*encoded.prefix, *suffix]])
            logs = torch.log_softmax(model(tokens).logits[0].double(), -1)
            start = len(encoded.prefix)
            expected.append(
                sum(logs[i - 1, tokens[0, i]].item() for i in range(start, tokens.shape[1]))
            )
    assert shared_prefix_scores(model, encoded, 10**6) == pytest.approx(expected, abs=1e-4)


def test_the_scored_tokens_spell_prompt_label_and_end(tokenizer, selector):
    llm = LocalLLM(tiny_model(), tokenizer)
    (prompt,) = prompts(selector, 1)
    encoded = llm.encode(prompt, LABELS)
    for suffix, name in zip(encoded.suffixes, NAMES, strict=True):
        spelled = tokenizer.decode([*encoded.prefix, *suffix])
        assert spelled == f"{prompt.text} {name}<|end|>"


def test_a_label_that_begins_another_can_win_and_lose(tokenizer):
    labels = LabelSpace(["top up", "top up failed"])
    prompt = PromptBuilder(labels, style="completion").build("top")
    model = tiny_model()
    short, long = LocalLLM(model, tokenizer).encode(prompt, labels).suffixes
    assert short == (tokenizer.eos_token_id,)
    picked = []
    for tokens in (short, long[:-1]):
        llm = LocalLLM(Biased(model, list(tokens), 12.0), tokenizer, output="generate")
        picked.append(llm.answer_batch([prompt], labels)[0].content)
    assert picked == list(labels.names)


def test_generation_is_valid_with_any_weights_and_is_the_greedy_path(model, tokenizer, selector):
    llm = LocalLLM(model, tokenizer, output="generate")
    for prompt in prompts(selector, 12):
        (reply,) = llm.answer_batch([prompt], LABELS)
        assert reply.content in NAMES
        assert NAMES.index(reply.content) == greedy(model, llm.encode(prompt, LABELS))


def greedy(model, encoded):
    """Follow the tree with a full forward pass per step."""
    alive, depth = list(range(len(encoded.suffixes))), 0
    while len(alive) > 1:
        so_far = [*encoded.prefix, *encoded.suffixes[alive[0]][:depth]]
        with torch.no_grad():
            logits = model(torch.tensor([so_far])).logits[0, -1]
        best = max({encoded.suffixes[i][depth] for i in alive}, key=lambda token: logits[token])
        alive = [i for i in alive if encoded.suffixes[i][depth] == best]
        depth += 1
    return alive[0]


def test_77_labels_are_generated_validly_under_20_random_models(tokenizer):
    labels = LabelSpace(json.loads(BANKING.read_text()))
    builder = PromptBuilder(labels, style="completion", show_labels=False)
    chosen = set()
    for seed in range(20):
        llm = LocalLLM(tiny_model(seed=seed), tokenizer, output="generate")
        for query in ("card is lost", "exchange rate {}"):
            reply = llm.answer_batch([builder.build(query)], labels)[0]
            assert labels.parse(reply.content).status == "ok"
            chosen.add(reply.content)
    assert len(chosen) > 3


def test_chat_templates_are_used(selector):
    tokenizer = tiny_tokenizer(CORPUS, chat=True)
    llm = LocalLLM(tiny_model(), tokenizer)
    (prompt,) = prompts(selector, 1, PromptBuilder(LABELS))
    encoded = llm.encode(prompt, LABELS)
    spelled = tokenizer.decode([*encoded.prefix, *encoded.suffixes[1]])
    last = prompt.messages[-1]["content"]
    assert spelled.endswith(f"<|user|>{last}<|end|><|assistant|>top up<|end|>")
    assert llm.answer_batch([prompt], LABELS)[0].content in NAMES
    fast, slow = (f(llm.model, encoded, 10**6) for f in (shared_prefix_scores, naive_scores))
    assert np.abs(fast - slow).max() < 1e-4


def test_a_style_without_a_template_is_refused(tokenizer, selector):
    llm = LocalLLM(tiny_model(), tokenizer)
    with pytest.raises(InputError, match="no chat template for style 'multiturn'; build prompts"):
        llm.answer_batch(prompts(selector, 1, PromptBuilder(LABELS)), LABELS)


def test_answers_do_not_depend_on_batch_and_order(model, tokenizer, selector):
    llm = LocalLLM(model, tokenizer)
    asked = prompts(selector)
    together = llm.answer_batch(asked, LABELS)
    assert together == [llm.answer_batch([prompt], LABELS)[0] for prompt in asked]
    assert together == llm.answer_batch(asked[::-1], LABELS)[::-1]
    assert isinstance(llm, LLM)


def test_the_model_is_left_as_it_was(tokenizer, selector):
    model = tiny_model()
    model.train()
    model.model.layers[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    config = model.config.to_dict()
    generation = copy.deepcopy(model.generation_config)
    state = torch.get_rng_state()
    for output in ("score", "generate"):
        LocalLLM(model, tokenizer, output=output).answer_batch(prompts(selector, 2), LABELS)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.config.to_dict() == config
    assert model.generation_config == generation
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_mean_divides_by_the_tokens_of_each_label(model, tokenizer, selector):
    (prompt,) = prompts(selector, 1)
    encoded = LocalLLM(model, tokenizer).encode(prompt, LABELS)
    sums = LocalLLM(model, tokenizer).answer_batch([prompt], LABELS)[0].label_scores
    means = LocalLLM(model, tokenizer, reduce="mean").answer_batch([prompt], LABELS)[0].label_scores
    assert means == pytest.approx(np.array(sums) / encoded.lengths)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_contextual_calibration_takes_each_querys_own_demonstrations(tokenizer, selector, reduce):
    model = tiny_model()
    plain = LocalLLM(model, tokenizer, reduce=reduce)
    llm = LocalLLM(model, tokenizer, reduce=reduce, calibration="contextual")
    asked = prompts(selector)
    scores = np.array([reply.label_scores for reply in plain.answer_batch(asked, LABELS)])
    free = np.array(
        [
            [plain.answer_batch([f], LABELS)[0].label_scores for f in content_free(prompt)]
            for prompt in asked
        ]
    )
    expected = contextual(scores, free).argmax(1)
    got = [NAMES.index(reply.content) for reply in llm.answer_batch(asked, LABELS)]
    assert got == expected.tolist()
    assert any(got != scores.argmax(1)), "the calibration changed nothing, so shows nothing"


def test_batch_calibration_is_learned_on_training_prompts(tokenizer, selector):
    model = tiny_model()
    llm = LocalLLM(model, tokenizer, calibration="batch")
    asked = prompts(selector)
    with pytest.raises(ConfigError, match="needs prompts to average over"):
        llm.answer_batch(asked, LABELS)
    reference = training_prompts(selector, BUILDER, n=10)
    llm.calibrate(reference, LABELS)
    plain = LocalLLM(model, tokenizer)
    scores, base = (
        np.array([reply.label_scores for reply in plain.answer_batch(some, LABELS)])
        for some in (asked, reference)
    )
    expected = batch(scores, base).argmax(1)
    assert [NAMES.index(r.content) for r in llm.answer_batch(asked, LABELS)] == expected.tolist()
    assert llm.describe()["calibration_rows"] == 10


def test_pooled_contextual_calibration_averages_over_prompts(tokenizer, selector):
    llm = LocalLLM(tiny_model(), tokenizer, calibration="contextual")
    llm.calibrate(training_prompts(selector, BUILDER, n=4), LABELS)
    assert llm.describe()["calibration_rows"] == 12
    assert llm.answer_batch(prompts(selector, 2), LABELS)[1].content in NAMES


class Biased(torch.nn.Module):
    """A model that wants some tokens, whatever it reads."""

    def __init__(self, inner, tokens, strength):
        super().__init__()
        self.inner, self.tokens, self.strength = inner, tokens, strength
        self.config, self.device = inner.config, inner.device

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None):
        out = self.inner(
            input_ids=input_ids, attention_mask=attention_mask,
            past_key_values=past_key_values, use_cache=use_cache,
        )  # fmt: skip
        out.logits[..., self.tokens] += self.strength
        return out


class Planted(LocalLLM):
    """Scores with a constant bias towards one label."""

    bias = np.array([0.0, 0.0, 8.0, 0.0])

    def _scores(self, encoded):
        return super()._scores(encoded) + self.bias


@pytest.mark.parametrize("calibration", ["contextual", "batch"])
def test_a_planted_bias_is_undone(tokenizer, selector, calibration):
    asked, model = prompts(selector, 24), tiny_model()
    answers = {}
    for kind in (LocalLLM, Planted):
        plain = kind(model, tokenizer, reduce="mean")
        undone = kind(model, tokenizer, reduce="mean", calibration=calibration)
        if calibration == "batch":
            undone.calibrate(training_prompts(selector, BUILDER, n=32), LABELS)
        answers[kind] = [reply.content for reply in plain.answer_batch(asked, LABELS)]
        answers[kind, "undone"] = [reply.content for reply in undone.answer_batch(asked, LABELS)]

    def agreement(a, b):
        return np.mean([x == y for x, y in zip(a, b, strict=True)])

    assert set(answers[Planted]) == {"exchange rate"}
    assert agreement(answers[Planted], answers[LocalLLM, "undone"]) < 0.6
    assert agreement(answers[Planted, "undone"], answers[LocalLLM, "undone"]) >= 0.75


def test_content_free_prompts_keep_everything_but_the_query(selector):
    for style in ("multiturn", "block", "completion"):
        builder = PromptBuilder(LABELS, style=style)
        (prompt,) = prompts(selector, 1, builder)
        test = task(n_test=1)[1]
        frees = content_free(prompt)
        expected = [
            builder.build(words or "\0", selector.select(test)[0]).messages for words in ("N/A",)
        ]
        assert frees[0].messages == expected[0]
        assert len(frees) == 3
        assert test.contents[0] not in str(frees[1].messages[-1])


def test_evaluate_runs_a_local_model_and_resumes(tokenizer, selector, tmp_path):
    test = task()[1]
    model = tiny_model()
    llm = LocalLLM(model, tokenizer)
    result = evaluate(selector, BUILDER, llm, test, out=tmp_path / "run")
    assert result.statuses == {"ok": 20}
    assert len(result.rows[0].label_scores) == 4
    before = (tmp_path / "run" / "results.jsonl").read_bytes()
    assert evaluate(selector, BUILDER, llm, test, out=tmp_path / "run").requests == 0
    assert (tmp_path / "run" / "results.jsonl").read_bytes() == before
    assert EvalResult.load(tmp_path / "run").rows == result.rows
    other = LocalLLM(tiny_model(seed=1), tokenizer)
    with pytest.raises(ValueError, match=r"llm\.weights"):
        evaluate(selector, BUILDER, other, test, out=tmp_path / "run")


def test_prompts_longer_than_the_model_are_a_row_status(tokenizer, selector):
    llm = LocalLLM(tiny_model(positions=64), tokenizer)
    result = evaluate(selector, BUILDER, llm, task(n_test=3)[1])
    assert result.statuses == {"overflow": 3}


def test_scoring_many_labels_reads_the_prompt_once(tokenizer):
    """What it saves in time is held by a benchmark; this counts the tokens that the model reads."""
    labels = LabelSpace(json.loads(BANKING.read_text())[:30])
    train = Examples(contents=[f"my card number {i} is lost" for i in range(40)],
                     targets=[i % 30 for i in range(40)])  # fmt: skip
    selector = DemoSelector("random", k=20).fit(train)
    builder = PromptBuilder(labels, style="completion", show_labels=False)
    llm = LocalLLM(tiny_model(), tokenizer)
    prompt = builder.build("card", selector.select(Examples(contents=["card"]))[0])
    encoded = llm.encode(prompt, labels)
    read: list[int] = []
    handle = llm.model.get_input_embeddings().register_forward_hook(
        lambda _, args, __: read.append(args[0].numel())
    )
    totals = []
    for score in (shared_prefix_scores, naive_scores):
        read.clear()
        score(llm.model, encoded, 1 << 15)
        totals.append(sum(read))
    handle.remove()
    assert totals[1] > 5 * totals[0]


def test_wrong_settings_are_refused(tokenizer):
    model = tiny_model()
    for settings, message in (
        ({"output": "scores"}, "output is 'scores'; choose one of 'score'"),
        ({"reduce": "max"}, "reduce is 'max'; choose one of"),
        ({"calibration": "contexual"}, "'contexual'; choose one of 'contextual'"),
        ({"calibration": "batch", "output": "generate"}, "needs label scores: output='score'"),
        ({"max_batch_tokens": 0}, "max_batch_tokens must be an integer >= 1; got 0"),
        ({"max_batch_tokens": 1.5}, r"max_batch_tokens must be an integer >= 1; got 1\.5"),
    ):
        with pytest.raises(ConfigError, match=message):
            LocalLLM(model, tokenizer, **settings)
    with pytest.raises(ConfigError, match="must be a transformers causal model"):
        LocalLLM("gpt2", tokenizer)
    endless = tiny_tokenizer(CORPUS)
    endless.eos_token = None
    with pytest.raises(ConfigError, match="no end token"):
        LocalLLM(model, endless)
    with pytest.raises(ConfigError, match="calibration is None"):
        LocalLLM(model, tokenizer).calibrate([], LABELS)
    with pytest.raises(InputError, match="at least one prompt"):
        LocalLLM(model, tokenizer, calibration="batch").calibrate([], LABELS)
