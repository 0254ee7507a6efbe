import re
from pathlib import Path

import pytest

from mspipeline.campaigns.schedulers import scheduler_named
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.site_file import built_in_sites, load_site
from mspipeline.errors import ConfigError

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


def limit(site):
    return scheduler_named(site.executor).limit(site)


def test_the_local_site_is_built_in_and_runs_one_cell_at_a_time():
    site = load_site("local")
    assert (site.name, site.executor, site.container, limit(site)) == ("local", "local", "none", 1)


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
        (("executor =", 'container = "aptainer"\nexecutor ='), "did you mean 'apptainer'?"),
        (('"slurm"', '"pbs"'), "executor: input should be 'local' or 'slurm'"),
        (("cpus = 16", "cpus = 0"), "partitions.cores.cpus: input should be greater than 0"),
        (("gpu:t4:1", "gpu=1"), "'gpu=1' is not NAME, NAME:COUNT or NAME:TYPE:COUNT, as `sinfo -o %G` lists them"),
        (("cpus = 16", "time_min = 1"), "partitions.cores.time_min = 1 ends before its warning, warn_s = 90"),
        (("executor =", 'binds = ["data:/data"]\nexecutor ='), "'data:/data' is not /path, /path:/inside or"),
        (
            ("executor =", 'scratch = "tmp"\nexecutor ='),
            "not an absolute path; write one, or a variable of the job such as $TMPDIR",
        ),
        (("executor =", 'modules = ["gcc; rm"]\nexecutor ='), "'gcc; rm' is not the name of a module"),
        (("executor =", 'mpi = "orun"\nexecutor ='), "mpi: input should be 'srun', 'mpirun' or 'mpiexec'"),
        (("executor =", 'mpi = "mpirun"\nmpi_plugin = "pmi2"\nexecutor ='), "mpi_plugin is srun's"),
        (("executor =", 'image_folder = "/images"\nexecutor ='), "images without a container; set container to"),
        (
            ("executor =", 'container = "docker"\nimage_folder = "/images"\nexecutor ='),
            "image_folder is for apptainer and singularity; docker takes [images] alone",
        ),
        (('"slurm"', '"local"\ncontainer = "docker"'), "a container needs executor = 'slurm'"),
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


EXAMPLES = [name for name in built_in_sites() if name.startswith("example_")]


def test_there_are_examples_of_three_differently_built_sites():
    sites = {name: load_site(name) for name in EXAMPLES}
    assert {site.container for site in sites.values()} == {"apptainer", "podman", "none"}
    assert {site.mpi for site in sites.values()} == {"srun", "mpirun"}
    assert all(site.name == name for name, site in sites.items())
    assert all({each.device for each in site.partitions.values()} == {"cpu", "gpu"} for site in sites.values())


def contained(tmp_path, **values):
    return Site(name="x", executor="slurm", partitions={"cores": Partition()}, **values)


def test_an_image_is_a_file_of_the_image_folder_that_has_to_be_there(tmp_path):
    site = contained(tmp_path, container="apptainer", image_folder=tmp_path, images={"torch": "torch.sif"})
    with pytest.raises(ConfigError, match=r"torch\.sif: no such image \(backend 'torch', site x\); .* has none"):
        site.image_for("torch")
    (tmp_path / "torch.sif").touch()
    assert site.image_for("torch") == str(tmp_path / "torch.sif")
    with pytest.raises(ConfigError, match=r"no image for backend 'jax'; it has torch; add `jax = \.\.\.` under"):
        site.image_for("jax")


def test_an_image_without_a_folder_is_refused_and_a_reference_is_taken_as_it_is(tmp_path):
    site = contained(tmp_path, container="singularity", images={"torch": "torch.sif"})
    with pytest.raises(ConfigError, match=r"image 'torch\.sif' of backend 'torch' has no folder; set image_folder"):
        site.image_for("torch")
    assert (
        contained(tmp_path, container="docker", images={"torch": "a/b@sha256:0"}).image_for("torch") == "a/b@sha256:0"
    )


def test_an_image_may_be_pinned_by_its_digest_in_the_way_of_its_runtime(tmp_path):
    digest = f"sha256:{'0' * 64}"
    text = (
        'name = "x"\nexecutor = "slurm"\ncontainer = "apptainer"\nimage_folder = "/i"\n[partitions.cores]\n[images]\n'
    )
    site = load_site(written(tmp_path, f'{text}jax = {{ file = "a.sif", digest = "{digest}" }}\ntorch = "b.sif"\n'))
    assert [(image.file, image.digest) for image in site.images.values()] == [("a.sif", digest), ("b.sif", None)]
    assert Site.model_validate(site.model_dump(mode="json")) == site
    with pytest.raises(ConfigError, match=r"images\.jax\.digest: .*"):
        load_site(written(tmp_path, f'{text}jax = {{ file = "a.sif", digest = "sha256:0" }}\n'))
    docker = text.replace('apptainer"\nimage_folder = "/i"', 'docker"')
    with pytest.raises(ConfigError, match=r"images\.jax: docker takes the digest in the reference: NAME@sha256:"):
        load_site(written(tmp_path, f'{docker}jax = {{ file = "a", digest = "{digest}" }}\n'))


OPTIONS = '[sbatch]\nreservation = "x"\nmail_user = "ada@example.org"\n'


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ('reservatoin = "x"', "unknown sbatch option 'reservatoin'; did you mean 'reservation'?"),
        ('C = "t4"', "unknown sbatch option 'C'"),
        ("mem = 4", "sbatch.mem is not for the site file: set `mem_gb`"),
        ('time = "1:00"', "sbatch.time is not for the site file: set `time_min`"),
        ('gpus_per_task = "1"', "sbatch.gpus_per_task is not for the site file: set `gres`"),
        ("requeue = true", "sbatch.requeue is not for the site file: a cell that is preempted goes on later by itself"),
        ("constraint = true", "sbatch.constraint = true, but sbatch needs a value for it; write one"),
        ('hold = "yes"', "sbatch.hold = 'yes', but it takes no value; write true or leave it out"),
        ('comment = "two\\nlines"', "is empty or has a line's end in it"),
        ('mail_user = "a"\nmail-user = "b"', "sbatch.mail-user is given twice"),
    ],
)
def test_an_option_that_sbatch_or_the_site_file_does_not_take_so_is_one_line(tmp_path, options, said):
    for where in ("[sbatch]", "[partitions.cores.sbatch]"):
        with pytest.raises(ConfigError) as refusal:
            load_site(written(tmp_path, f"{CLUSTER}{where}\n{options}\n"))
        assert said in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_a_local_site_takes_no_options_of_sbatch(tmp_path):
    with pytest.raises(ConfigError, match="sbatch options on a site with executor = 'local'"):
        load_site(written(tmp_path, 'name = "x"\nexecutor = "local"\n' + OPTIONS))


def test_the_site_file_of_the_guide_is_one(tmp_path):
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
    section = guide.partition("## Clusters\n")[2].partition("\n## ")[0]
    example, options = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    path = tmp_path / "hall.toml"
    path.write_text(example)
    site = load_site(str(path))
    assert (site.container, site.partitions["gpu_t4"].gres, site.images["tensorflow"].file) == (
        "apptainer",
        "gpu:t4:1",
        "tensorflow.sif",
    )
    head, _, tables = example.partition("[images]")
    top, _, table = options.partition("[partitions.gpu_t4.sbatch]")
    path.write_text(f"{head}{top}[images]{tables}[partitions.gpu_t4.sbatch]{table}")
    site = load_site(str(path))
    assert (site.sbatch["wckey"], site.partitions["gpu_t4"].sbatch) == ("lesions", {"constraint": "t4"})
