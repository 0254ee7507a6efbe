import sys

import pytest

from mspipeline.campaigns.before_and_after import prepare_submission
from mspipeline.campaigns.schedulers import scheduler_named
from mspipeline.campaigns.site import Partition, Site
from mspipeline.config import PrepareJob
from mspipeline.containers.container import Bind
from mspipeline.errors import ConfigError
from mspipeline.parallel.launchers import plugin_of
from mspipeline.slurm.on_node.node import NodeEnvironment, command_lines, container_of
from mspipeline.slurm.on_node.podman import with_pmi
from mspipeline.slurm.site_rules import mpi_command

JOB = {"USER": "ada", "TMPDIR": "/local/ada", "SLURM_PROCID": "0", "CUDA_VISIBLE_DEVICES": "1", "HOME": "/home/ada"}


def given(**values):
    defaults = {"container": "apptainer", "image": "/i/x.sif", "folders": ("/campaign",), "read_only": ("/shards",)}
    return NodeEnvironment(**{**defaults, **values})


def test_an_image_sees_the_campaign_the_shards_read_only_the_sites_binds_and_the_scratch_folder():
    container = container_of(given(binds=("/data/$USER:/d:ro",), scratch="$TMPDIR"), "/campaign/cells/a", JOB)
    assert container.binds == (
        Bind("/campaign", "/campaign"),
        Bind("/shards", "/shards", read_only=True),
        Bind("/data/ada", "/d", read_only=True),
        Bind("/local/ada", "/local/ada"),
    )
    assert (container.folder, container.image, container.gpu) == ("/campaign/cells/a", "/i/x.sif", False)


def test_an_image_is_given_the_jobs_own_variables_and_those_the_site_names():
    environment = container_of(given(pass_environment=("USER",)), "/c", JOB).environment
    assert set(environment) == {
        *("SLURM_PROCID", "CUDA_VISIBLE_DEVICES", "TMPDIR", "USER"),
        *("PYTHONNOUSERSITE", "PYTHONUNBUFFERED"),
    }


def test_a_folder_named_twice_is_bound_once():
    assert len(container_of(given(binds=("/campaign",)), "/c", JOB).binds) == 2


def test_outside_of_images_nothing_is_bound():
    assert container_of(NodeEnvironment(), "/c", {}).binds == ()


def test_a_variable_that_the_job_lacks_stops_it_before_its_commands():
    with pytest.raises(ConfigError, match=r"\$WORK is not set in the job"):
        container_of(given(binds=("$WORK/data",)), "/c", JOB)


def test_what_an_image_was_built_from_enters_it_and_wins_over_a_commit_that_the_host_names():
    environment = container_of(given(image_commit="c0ffee"), "/c", {**JOB, "MSPIPELINE_COMMIT": "5ubm17"}).environment
    assert environment["MSPIPELINE_COMMIT"] == "c0ffee"


def test_the_plugin_of_srun_is_that_of_the_mpi_under_mpi4py_where_the_site_names_none():
    pytest.importorskip("mpi4py", reason="no mpi4py here; pip install mpi4py mpich")
    site = Site(name="c", executor="slurm", partitions={"cpu": Partition()})
    command = [sys.executable, "-P", "-m", "mspipeline.jobs", "prepare", "x"]
    (line,) = command_lines([command], "/cell", NodeEnvironment(launchers=(tuple(mpi_command(site, 3)),)))
    (found,) = (word for word in line if word.startswith("--mpi="))
    assert found in ("--mpi=pmi2", "--mpi=pmix")
    assert line[-len(command) :] == command
    named = site.model_copy(update={"mpi_plugin": "cray_shasta"})
    (line,) = command_lines([command], "/cell", NodeEnvironment(launchers=(tuple(mpi_command(named, 3)),)))
    assert "--mpi=cray_shasta" in line


@pytest.mark.parametrize(
    ("library", "plugin"),
    [
        ("Open MPI v4.1.4", "pmix"),
        ("Open MPI v5.0.11", "pmix"),
        ("MPICH Version: 5.0.2", "pmi2"),
        ("Intel(R) MPI Library 2021.10 for Linux* OS", "pmi2"),
        ("MVAPICH2 Version : 2.3.7", "pmi2"),
        ("Some other MPI", None),
    ],
)
def test_the_plugin_of_an_mpi(library, plugin):
    assert plugin_of(library) == plugin


def test_where_there_is_no_mpi4py_the_cluster_s_own_plugin_is_left_to_it(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'error: no mpi4py' >&2\nexit 69\n")
    python.chmod(0o755)
    site = Site(name="c", executor="slurm", partitions={"cpu": Partition()})
    (line,) = command_lines([[str(python), "x"]], "/cell", NodeEnvironment(launchers=(tuple(mpi_command(site, 3)),)))
    assert [word for word in line if word.startswith("--mpi")] == []


def test_podman_keeps_the_file_by_which_ranks_are_introduced_and_calls_it_3():
    words = with_pmi(["podman", "run", "--env", "PMI_FD=13", "--env", "PMI_RANK=0", "app:1"], 13)
    assert words[:3] == ["bash", "-c", 'exec 3<&13; exec "$@"']
    assert words[4:] == ["podman", "run", "--preserve-fds=1", "--env", "PMI_FD=3", "--env", "PMI_RANK=0", "app:1"]


def test_ranks_are_refused_before_anything_is_submitted_where_docker_would_part_them(tmp_path):
    site = Site(
        name="c",
        executor="slurm",
        container="docker",
        images={"jax": "a@sha256:0"},
        partitions={"cpu": Partition()},
    )
    job = PrepareJob(dataset=tmp_path, output=tmp_path)
    with pytest.raises(ConfigError, match="2, but Docker's daemon starts containers outside of the job"):
        prepare_submission(tmp_path, job, site, scheduler_named("slurm"), 2, "python")
    assert prepare_submission(tmp_path, job, site, scheduler_named("slurm"), 1, "python").launchers == [[]]
