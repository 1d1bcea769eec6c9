"""The input benchmark measures the loader and a plain pool on the same images."""

from sotglp_jax.data import speed


def test_both_are_measured_as_often_as_promised(monkeypatch):
    monkeypatch.setattr(speed, "PHOTOS", 4)
    monkeypatch.setattr(speed, "IMAGES", 48)
    monkeypatch.setattr(speed, "TIMES", 2)
    found = speed.measure(workers=0, batch_size=8, image_size=32)
    assert len(found) == 2 and all(x["ours"] > 0 and x["pool"] > 0 for x in found)
