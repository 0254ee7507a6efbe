import math

import pytest

from mspipeline.errors import ConfigError
from slurm.site import BUILT_IN, Partition, Site, load_site

CLUSTER = """
schema_version = 1
name = "cluster"
executor = "slurm"
[partitions.cores]
device = "cpu"
cpus = 16
[partitions.gpu_t4]
device = "gpu"
gres = "gpu:t4:1"
"""


def written(tmp_path, text):
    path = tmp_path / "site.toml"
    path.write_text(text)
    return str(path)


def test_the_local_site_is_built_in_and_runs_one_cell_at_a_time():
    site = load_site("local")
    assert (site.name, site.executor, site.container, site.limit) == ("local", "local", "none", 1)
    assert [path.name for path in BUILT_IN.glob("*.toml")] == ["local.toml"]


def test_slurm_decides_how_many_cells_run_unless_the_site_says(tmp_path):
    assert load_site(written(tmp_path, CLUSTER)).limit == math.inf
    assert (
        load_site(written(tmp_path, CLUSTER.replace("[partitions.cores]", "max_parallel=4\n[partitions.cores]"))).limit
        == 4
    )


@pytest.mark.parametrize(("device", "partition"), [("cpu", "cores"), ("gpu", "gpu_t4"), ("auto", "gpu_t4")])
def test_a_device_chooses_the_partition(tmp_path, device, partition):
    assert load_site(written(tmp_path, CLUSTER)).partition_for(device)[0] == partition


def test_auto_takes_cores_where_there_is_no_gpu():
    site = Site(name="x", executor="slurm", partitions={"cores": Partition(cpus=4)})
    assert site.partition_for("auto") == ("cores", Partition(cpus=4))


def test_a_local_site_needs_no_partition():
    assert load_site("local").partition_for("gpu") == ("", Partition(device="gpu"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("executor =", "exekutor ="), "unknown key 'exekutor'; did you mean 'executor'?"),
        (("gres =", "grs ="), "unknown key 'partitions.gpu_t4.grs'; did you mean 'gres'?"),
        (
            ("executor =", 'container = "apptainer"\nexecutor ='),
            "container runtime apptainer is not supported yet; write 'none'",
        ),
        (("executor =", 'container = "aptainer"\nexecutor ='), "did you mean 'apptainer'?"),
        (('"slurm"', '"pbs"'), "executor: input should be 'local' or 'slurm'"),
        (("cpus = 16", "cpus = 0"), "partitions.cores.cpus: input should be greater than 0"),
    ],
)
def test_a_site_file_that_does_not_fit_is_one_line(tmp_path, change, said):
    with pytest.raises(ConfigError) as refusal:
        load_site(written(tmp_path, CLUSTER.replace(*change)))
    assert said in str(refusal.value)
    assert "site.toml" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_slurm_site_without_partitions_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"needs at least one \[partitions.NAME\]"):
        load_site(written(tmp_path, 'name = "x"\nexecutor = "slurm"\n'))


def test_an_unknown_site_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown site 'locl'; did you mean 'local'\?"):
        load_site("locl")


def test_a_site_file_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_site(str(tmp_path / "none.toml"))
