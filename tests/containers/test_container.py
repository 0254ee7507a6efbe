import shlex

import pytest

from mspipeline.containers.container import Bind, Container, argv, expand, parse_bind, passed
from mspipeline.errors import ConfigError, UsageError

BINDS = (Bind("/campaign", "/campaign"), Bind("/data/scans", "/scans", read_only=True))
COMMAND = ["python", "-P", "-m", "mspipeline.jobs", "supervise", "train", "/campaign/cells/a b/train.json"]


def text(runtime, **values):
    """A container's command line as one line of shell."""
    defaults = {"image": "app:1", "binds": BINDS, "folder": "/campaign", "user": 1234, "group": 100}
    return shlex.join(argv(Container(runtime, **{**defaults, **values}), COMMAND))


def test_without_a_user_it_is_whoever_the_image_names():
    for runtime in ("docker", "podman"):
        assert "--user" not in text(runtime, user=None)
        assert "keep-id" not in text(runtime, user=None)


END = "python -P -m mspipeline.jobs supervise train '/campaign/cells/a b/train.json'"


def test_without_a_container_the_command_stays_as_it_is():
    assert argv(Container("none"), COMMAND) == COMMAND


@pytest.mark.parametrize(("runtime", "prefix"), [("apptainer", "APPTAINERENV"), ("singularity", "SINGULARITYENV")])
def test_apptainer_and_singularity(runtime, prefix):
    line = text(runtime, image="/images/x.sif", gpu=True, environment={"CUDA_VISIBLE_DEVICES": "0,1", "A": "b c"})
    assert line == (
        f"env {prefix}_CUDA_VISIBLE_DEVICES=0,1 '{prefix}_A=b c' {runtime} exec --cleanenv --no-home --no-mount cwd "
        f"--nv --bind /campaign:/campaign --bind /data/scans:/scans:ro --pwd /campaign /images/x.sif {END}"
    )


def test_apptainer_on_cores_has_no_gpu_and_no_variable_that_was_not_given():
    line = text("apptainer", image="/images/x.sif", binds=())
    assert line == f"apptainer exec --cleanenv --no-home --no-mount cwd --pwd /campaign /images/x.sif {END}"


OCI = (
    "run --rm --pull never --network host --uts host --ipc host --mount type=bind,source=/campaign,target=/campaign "
    "--mount type=bind,source=/data/scans,target=/scans,readonly --workdir /campaign"
)


def test_docker_on_cores():
    assert (
        text("docker", environment={"A": "b"}) == f"docker {OCI} --user 1234:100 --env A=b --entrypoint '' app:1 {END}"
    )


def test_docker_whose_daemon_is_outside_of_the_job_is_told_the_jobs_cores_and_memory():
    limited = text("docker", cores=(2, 3), memory_mib=2048)
    assert f"--user 1234:100 --cpuset-cpus 2,3 --memory 2048m --entrypoint '' app:1 {END}" in limited
    assert text("podman", cores=(2, 3), memory_mib=2048) == text("podman")


def test_docker_is_given_the_gpus_of_the_job_and_numbers_them_from_0():
    line = text("docker", gpu=True, environment={"CUDA_VISIBLE_DEVICES": "2,3"})
    assert line == (
        f"""docker {OCI} --user 1234:100 --gpus '"device=2,3"' """
        f"--env CUDA_VISIBLE_DEVICES=0,1 --entrypoint '' app:1 {END}"
    )


def test_docker_is_given_every_gpu_where_the_scheduler_names_none_and_none_where_it_names_an_empty_list():
    assert "--gpus all" in text("docker", gpu=True)
    assert "--gpus" not in text("docker", gpu=True, environment={"CUDA_VISIBLE_DEVICES": ""})


def test_a_gpu_named_by_its_uuid_keeps_its_name():
    line = text("docker", gpu=True, environment={"CUDA_VISIBLE_DEVICES": "GPU-5f2c"})
    assert """--gpus '"device=GPU-5f2c"' --env CUDA_VISIBLE_DEVICES=GPU-5f2c""" in line


def test_podman_keeps_the_users_number_without_root():
    assert text("podman") == f"podman {OCI} --userns keep-id --user 1234:100 --entrypoint '' app:1 {END}"
    assert "--userns" not in text("podman", user=0, group=0)


def test_podman_is_given_the_gpus_of_the_job():
    line = text("podman", gpu=True, environment={"CUDA_VISIBLE_DEVICES": "1,3"})
    assert "--device nvidia.com/gpu=1 --device nvidia.com/gpu=3 --env CUDA_VISIBLE_DEVICES=0,1" in line
    assert "--device nvidia.com/gpu=all" in text("podman", gpu=True)


@pytest.mark.parametrize("runtime", ["apptainer", "singularity", "podman", "docker"])
def test_no_runtime_mounts_a_home_or_pulls_an_image(runtime, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    words = argv(Container(runtime, "app:1", BINDS), COMMAND)
    assert not any("/home" in word for word in words)
    assert ("--no-home" in words) != ("never" in words)


def test_only_what_is_named_enters_an_image():
    job = {
        "SLURM_PROCID": "1",
        "PMI_RANK": "0",
        "PMIX_RANK": "0",
        "UCX_TLS": "tcp",
        "HOME": "/home/ada",
        "LD_PRELOAD": "x",
        "TMPDIR": "/t",
    }
    fixed = {"PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}
    assert passed(job) == {"SLURM_PROCID": "1", "PMI_RANK": "0", "PMIX_RANK": "0", "TMPDIR": "/t", **fixed}
    assert passed(job, ["UCX_*"])["UCX_TLS"] == "tcp"
    assert passed({"PYTHONNOUSERSITE": "0"}, ["PYTHON*"])["PYTHONNOUSERSITE"] == "1"


@pytest.mark.parametrize(
    ("written", "bind"),
    [
        ("/data", Bind("/data", "/data")),
        ("/data:ro", Bind("/data", "/data", read_only=True)),
        ("/data:/in", Bind("/data", "/in")),
        ("/data:/in:rw", Bind("/data", "/in")),
        ("$WORK/d:/in:ro", Bind("/w/d", "/in", read_only=True)),
    ],
)
def test_a_bind_as_a_site_writes_it(written, bind):
    assert parse_bind(written, {"WORK": "/w"}) == bind


def test_a_variable_that_the_job_lacks_is_named():
    with pytest.raises(ConfigError, match=r"/local/\$USR: \$USR is not set in the job; correct the site file"):
        expand("/local/$USR", {"USER": "ada"})
    with pytest.raises(ConfigError, match="begins no variable's name"):
        expand("/local/$", {})


def test_a_folder_that_cannot_be_bound_is_refused():
    with pytest.raises(ConfigError, match="/a,b: a comma, colon or quote"):
        text("apptainer", binds=(Bind("/a,b", "/x"),))


def test_an_unknown_runtime_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match="unknown container runtime 'shifter'; valid: none, apptainer, singularity"):
        text("shifter")
