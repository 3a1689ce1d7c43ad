"""An adapter in real vLLM, unmerged, against its base and against the merged model."""

import pytest

from mlalign.models.engine import EngineConfig, Sampling, open_engine

pytest.importorskip("vllm")
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
