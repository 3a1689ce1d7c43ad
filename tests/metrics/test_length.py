import numpy as np
import pytest

from mlalign.methods.metrics import length, ratios
from mlalign.methods.metrics.answers import Items, counterparts

NAN = np.nan


def test_byte_premium_and_content_by_hand():
    """Hindi prompts take 30 and 50 bytes where English takes 10 and 10: a premium of 4.

    A native Hindi prompt has no English one.
    """
    told = [
        ("e1", "eng_Latn", "g1"),
        ("e2", "eng_Latn", "g2"),
        ("h1", "hin_Deva", "g1"),
        ("h2", "hin_Deva", "g2"),
        ("h3", "hin_Deva", "n1"),
        ("y1", "yor_Latn", "n2"),
    ]
    items = Items.of([(*t, "native") for t in told], np.array([10.0, 10, 30, 50, 99, 99]), {})
    premium = length.premium_columns(items.prompt_bytes, counterparts(items, "eng_Latn"))
    assert ratios.ratio(premium[2:4].sum(0)) == pytest.approx(4.0)
    assert ratios.ratio(premium[:2].sum(0)) == pytest.approx(1.0)
    answers = np.array([[10.0, 20], [30, NAN], [40, 60], [80, 100], [120, NAN], [7, 7]])
    content = length.content_columns(items.language, answers, premium)
    assert ratios.ratio_of_ratios(content[:2].sum(0)) == pytest.approx(20.0)
    assert ratios.ratio_of_ratios(content[2:5].sum(0)) == pytest.approx(
        80 / 4
    )  # mean of five answers, the native one too
    assert np.isnan(content[5]).all()  # no parallel prompt in Yoruba
