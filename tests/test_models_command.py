import json

import pytest

from mspipeline.commands.display import print_models, print_nodes
from mspipeline.errors import ConfigError


def test_a_network_is_listed_node_by_node_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_nodes("cascade3d", as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["name"], document["image_shape"]) == ("cascade3d", [11, 11, 11, 3])
    assert (document["trainable"], document["non_trainable"], document["total"]) == (189_922, 192, 190_114)
    assert document["nodes"][1] == {
        "name": "conv1",
        "op": "Conv",
        "shape": [11, 11, 11, 32],
        "trainable": 27 * 3 * 32,
        "non_trainable": 0,
        "macs": 11**3 * 27 * 3 * 32,
        "activation_bytes": 4 * 11**3 * 32,
    }
    assert document["activation_bytes"] == sum(node["activation_bytes"] for node in document["nodes"])


def test_the_table_has_a_line_a_node_and_the_totals(capsys: pytest.CaptureFixture[str]) -> None:
    print_nodes("cascade3d", as_json=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["fc1", "Dense", "256", "131,328", "0.13", "0.00"] in lines
    assert ["15", "nodes", "190,114", "10.49", "0.65"] in lines


def test_an_unknown_network_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cascade3d'"):
        print_nodes("cascade", as_json=True)


def test_the_list_keeps_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    print_models("nicms", as_json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert set(row) == {"name", "trainable", "non_trainable", "total", "macs", "backends"}
    assert (row["name"], row["trainable"], row["total"]) == ("nicms", 470_082, 470_466)
