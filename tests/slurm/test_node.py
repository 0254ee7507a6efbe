import pytest

from mspipeline.errors import ConfigError
from mspipeline.slurm.inside.container import Bind
from mspipeline.slurm.inside.node import Surroundings, container_of

JOB = {"USER": "ada", "TMPDIR": "/local/ada", "SLURM_PROCID": "0", "CUDA_VISIBLE_DEVICES": "1", "HOME": "/home/ada"}


def given(**values):
    defaults = {"container": "apptainer", "image": "/i/x.sif", "folders": ("/campaign",), "read_only": ("/shards",)}
    return Surroundings(**{**defaults, **values})


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
    assert container_of(Surroundings(), "/c", {}).binds == ()


def test_a_variable_that_the_job_lacks_stops_it_before_its_commands():
    with pytest.raises(ConfigError, match=r"\$WORK is not set in the job"):
        container_of(given(binds=("$WORK/data",)), "/c", JOB)


def test_what_an_image_was_built_from_enters_it_and_wins_over_a_commit_that_the_host_names():
    environment = container_of(given(image_commit="c0ffee"), "/c", {**JOB, "MSPIPELINE_COMMIT": "5ubm17"}).environment
    assert environment["MSPIPELINE_COMMIT"] == "c0ffee"
