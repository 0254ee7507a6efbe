from mspipeline.slurm.programs import NOT_HERE, ask, program_environment


def test_an_answer_is_what_the_program_prints():
    answer = ask(["sh", "-c", "echo out; echo err >&2"], timeout_s=10)
    assert (answer.output, answer.errors, answer.problem) == ("out\n", "err\n", "")


def test_a_program_that_fails_is_a_problem_in_one_line():
    assert ask(["sh", "-c", "echo one >&2; echo two >&2; exit 3"], timeout_s=10).problem == "one two"
    assert ask(["sh", "-c", "echo only here; exit 3"], timeout_s=10).problem == "only here"
    assert ask(["sh", "-c", "exit 3"], timeout_s=10).problem == "code 3"


def test_a_program_that_is_not_here_or_does_not_end_is_a_problem_too():
    assert ask(["no-such-program-of-slurm"], timeout_s=10).problem == NOT_HERE
    assert ask(["sleep", "20"], timeout_s=0.2).problem == "no answer in 0 s"


def test_what_a_user_has_the_programs_show_is_kept_from_them(monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    monkeypatch.setenv("SLURM_CONF", "/etc/x")
    found = program_environment()
    assert "SQUEUE_STATES" not in found
    assert found["SLURM_CONF"] == "/etc/x"
