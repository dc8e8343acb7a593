"""CS-IB: the paper's own data come by path."""

from experiments.cli import main


def test_a_table_is_no_model(capsys):
    words = ["run", "cs_ib", "--preset", "paper", "--dry-run"]
    assert main([*words, "--california.data.source", "houses.csv"]) == 0
    assert "--california.data.source houses.csv" in capsys.readouterr().out
