"""An adapter in real vLLM, unmerged, against its base and against the merged model."""

from importlib.util import find_spec

import pytest

from mlalign.models.engine import EngineConfig, Sampling, open_engine

# Not importorskip: importing vLLM takes long, and every worker collects every file.
pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
GREEDY = Sampling(20, 0.0)


@pytest.mark.slow
def test_an_unmerged_adapter_equals_the_merged_model_and_not_its_base(
    adapter_and_merged, tiny, requests
):
    adapter, merged = adapter_and_merged
    engine = open_engine(EngineConfig("vllm"), adapter, max_model_len=64)
    served = engine.generate(requests, GREEDY)
    engine.close()
    of_merged, of_base = (
        open_engine(EngineConfig("transformers"), model).generate(requests, GREEDY)
        for model in (merged, tiny)
    )
    assert served == of_merged
    assert served != of_base
