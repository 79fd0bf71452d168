"""Files of figures."""

from __future__ import annotations

from whetstone import jsonfile, results


def test_merging_replaces_by_case_subject_and_metric(tmp_path):
    path = tmp_path / "demo.json"
    row = {"case": "a", "subject": "whetstone", "metric": "success_base", "value": 0.4, "unit": "fraction"}
    results.merge(path, [row, {**row, "case": "b"}], command="make demo-study", configurations={"a": "1", "b": "1"})
    results.merge(path, [{**row, "value": 0.6}], command="make demo-study", configurations={"a": "2"})
    data = jsonfile.read(path)
    assert [(r["case"], r["value"]) for r in data["rows"]] == [("a", 0.6), ("b", 0.4)]
    assert set(data) == {"command", "commit", "machine", "date", "rows", "configurations"}
    assert results.has(path, "a", ["success_base"], "a", "2")
    assert not results.has(path, "a", ["success_base"], "a", "1")
    assert not results.has(path, "a", ["success_refined"], "a", "2")
    assert not results.has(tmp_path / "none.json", "a", [], "a", "2")
