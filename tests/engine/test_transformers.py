"""transformers' generate behind the engine protocol, on the tiny model."""

import pytest

from mlalign.core.errors import UserError
from mlalign.models.engine import EngineConfig, Sampling, open_engine
from mlalign.models.engine.transformers import batches


@pytest.fixture(scope="module")
def engine(tiny):
    engine = open_engine(EngineConfig("transformers", batch_tokens=256), tiny)
    yield engine
    engine.close()


def test_batches_are_length_sorted_within_the_budget():
    assert list(batches([3, 9, 5, 9], max_tokens=1, budget=20)) == [[1, 3], [2, 0]]
    assert list(batches([50, 1], max_tokens=1, budget=20)) == [[0], [1]]


@pytest.mark.slow
def test_greedy_text_does_not_depend_on_padding(engine, requests):
    together = engine.generate(requests, Sampling(16, 0.0))
    alone = [engine.generate([r], Sampling(16, 0.0))[0] for r in requests[::4]]
    assert alone == together[::4]


@pytest.mark.slow
def test_the_same_requests_give_the_same_samples_and_different_ones_differ(engine, requests):
    hot = Sampling(16, 2.0)
    first = engine.generate(requests, hot)
    assert engine.generate(requests, hot) == first
    assert first[0].text != first[1].text or first[2].text != first[3].text


@pytest.mark.slow
def test_finish_reason_token_count_and_stop(engine, requests):
    long, short = (
        engine.generate(requests[:1], Sampling(40, 0.0))[0],
        engine.generate(requests[:1], Sampling(2, 0.0))[0],
    )
    assert (long.finish_reason, short.finish_reason, short.n_tokens) == ("stop", "length", 2)
    word = long.text.split()[1]
    cut = engine.generate(requests, Sampling(40, 0.0, stop=[word]))[0]
    assert (cut.finish_reason, cut.text) == ("stop", long.text[: long.text.index(word)])
    assert 0 < cut.n_tokens < long.n_tokens


@pytest.mark.slow
def test_an_adapter_equals_the_merged_model_and_not_its_base(engine, adapter_and_merged, requests):
    adapter, merged = (
        open_engine(EngineConfig("transformers"), model).generate(requests, Sampling(16, 0.0))
        for model in adapter_and_merged
    )
    assert adapter == merged
    assert adapter != engine.generate(requests, Sampling(16, 0.0))


def test_an_unknown_option_is_named(engine, requests):
    with pytest.raises(UserError, match=r"sampling\.repetition_penalti.*repetition_penalty"):
        engine.generate(requests[:1], Sampling(4, extra={"repetition_penalti": 1.1}))
