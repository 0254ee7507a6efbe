"""A site held against a cluster: facts by hand, then the tests' real one."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from mspipeline.campaigns.site import Image, Partition, Site
from mspipeline.campaigns.site_file import load_site
from mspipeline.doctor import examine_site
from mspipeline.errors import ConfigError
from mspipeline.slurm.checks.cluster_facts import ClusterFacts, Node, PartitionFacts, ask_cluster, gres, minutes
from mspipeline.slurm.checks.host_check import image_findings
from mspipeline.slurm.checks.site_check import check_site, scheduler_findings, site_findings

T4 = {("gpu", "t4"): 2}
CORES = PartitionFacts(
    name="cores",
    state="UP",
    max_time_min=60,
    max_cpus=None,
    max_mem_mib=None,
    accounts=None,
    denied_accounts=frozenset(),
    qos=None,
    preempt_mode="REQUEUE",
    nodes=(
        Node("n1", True, 16, 64 * 1024, {}),
        Node("n2", True, 8, 128 * 1024, {}),
        Node("n3", False, 8, 64 * 1024, {}, "IDLE+DRAIN"),
    ),
)
GPUS = replace(CORES, name="gpu_t4", nodes=(Node("g1", True, 8, 32 * 1024, T4), Node("g2", True, 32, 32 * 1024, {})))
FACTS = ClusterFacts(
    name="c",
    version="1",
    kill_wait_s=30,
    partitions={"cores": CORES, "gpu_t4": GPUS},
    accounts=frozenset({"lung", "radiology"}),
    qos={"normal": None, "short": 30},
    own_accounts=None,
    own_qos=None,
    mpi_plugins=("none", "pmi2"),
)


def wrong(facts=FACTS, name="cores", site=None, **asked):
    """What is broken for one partition of a site that asks for this."""
    site = Site(name="x", executor="slurm", partitions={name: Partition(**asked)}, warn_s=10, **(site or {}))
    return [
        f"{each.what}: {each.detail}; {each.remedy}"
        for each in scheduler_findings(site, facts)
        if each.state == "broken"
    ]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"name": "gpu"},
            "partition 'gpu': not on this cluster; it has cores, gpu_t4; correct [partitions.gpu] of the site file",
        ),
        ({"cpus": 17}, "partition 'cores': cpus = 17, but a node offers 16 at most; lower cpus in [partitions.cores]"),
        (
            {"cpus": 6, "pack": 3},
            "cpus = 6 for each of pack = 3 cells, but a node offers 16 at most; lower cpus or pack",
        ),
        (
            {"mem_gb": 50, "pack": 3},
            "mem_gb = 50 for each of pack = 3 cells, but a node offers 128 at most; lower mem_gb",
        ),
        ({"cpus": 8, "mem_gb": 64, "pack": 2}, "no single node has that many cpus, that memory and that gres"),
        ({"mem_gb": 128.5}, "mem_gb = 128.5, but a node offers 128 at most; lower mem_gb in"),
        ({"time_min": 61}, "time_min = 61 is above its limit, 60; lower time_min in"),
        ({"cpus": 16, "mem_gb": 128}, "no single node has that many cpus, that memory and that gres; ask for less"),
        ({"gres": "gpu:1"}, "gres 'gpu:1': no node has that; its nodes have none; correct gres"),
        ({"name": "gpu_t4", "gres": "gpu:a100:1"}, "gres 'gpu:a100:1': no node has that; its nodes have gpu:t4:2"),
        ({"name": "gpu_t4", "gres": "gpu:3"}, "gres 'gpu:3': no node has that"),
        ({"name": "gpu_t4", "gres": "gpu:t4:1", "cpus": 9}, "no single node has that many cpus"),
        (
            {"account": "lunge"},
            "account 'lunge': not on this cluster; it has lung, radiology; correct account in the site",
        ),
        (
            {"qos": "shrot"},
            "qos 'shrot': not on this cluster; it has normal, short; correct qos in the site file (did you",
        ),
        ({"qos": "short", "time_min": 31}, "time_min = 31 is above the limit of QOS 'short', 30; lower time_min"),
    ],
)
def test_what_a_cluster_cannot_give_is_named_with_what_it_has(asked, said):
    found = wrong(**asked)
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"cpus": 16, "mem_gb": 64, "time_min": 60},
        {"cpus": 8, "mem_gb": 128},
        {"name": "gpu_t4", "gres": "gpu:2"},
        {"name": "gpu_t4", "gres": "gpu:t4:2", "cpus": 8},
        {"name": "gpu_t4", "cpus": 32},
        {"account": "lung", "qos": "short", "time_min": 30},
    ],
)
def test_what_a_cluster_can_give_is_not_refused(asked):
    assert wrong(**asked) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": "DRAIN"}, "its state is DRAIN: it takes no jobs"),
        ({"state": "INACTIVE"}, "its state is INACTIVE: it takes no jobs"),
        ({"nodes": ()}, "it has no nodes"),
        ({"max_cpus": 2}, "cpus = 4, but a node offers 2 at most"),
        ({"max_mem_mib": 1024}, "mem_gb = 2, but a node offers 1 at most"),
        ({"accounts": frozenset({"lung"})}, "takes no job of account None, only of lung; set account"),
        ({"qos": frozenset({"short"})}, "takes no job of QOS None, only of short; set qos"),
    ],
)
def test_a_partitions_own_rules_count(change, said):
    facts = replace(FACTS, partitions={"cores": replace(CORES, **change)})
    assert said in " ".join(wrong(facts, cpus=4, mem_gb=2))


BIG = Node("n4", False, 64, 2**20, {("gpu", "a100"): 4}, "DOWN*")


@pytest.mark.parametrize(
    ("change", "asked", "said"),
    [
        ({"state": "DOWN"}, {}, "its state is DOWN: cells wait until it is up"),
        ({"nodes": CORES.nodes[2:]}, {}, "none of its 1 nodes is in service (n3 idle+drain): cells wait until one is"),
        # What only a node has that is down is there all the same.
        ({"nodes": (*CORES.nodes, BIG)}, {"cpus": 17}, "no node that could run a cell is in service (n4 down*)"),
        ({"nodes": (*CORES.nodes, BIG)}, {"gres": "gpu:a100:4"}, "no node that could run a cell is in service (n4"),
    ],
)
def test_a_partition_that_is_closed_for_now_is_a_warning_and_no_refusal(change, asked, said):
    facts = replace(FACTS, partitions={"cores": replace(CORES, **change)})
    site = Site(name="x", executor="slurm", partitions={"cores": Partition(**asked)}, warn_s=10)
    (found,) = scheduler_findings(site, facts)
    assert (found.state, said in found.detail, found.remedy != "") == ("warning", True, True)


def test_an_account_of_others_is_refused_where_the_scheduler_insists():
    facts = replace(FACTS, own_accounts=frozenset({"lung"}), own_qos=frozenset({"normal"}))
    assert "account 'radiology': not open to you; you have lung" in wrong(facts, account="radiology")[0]
    assert "qos 'short': not open to you; you have normal" in wrong(facts, qos="short")[0]
    assert wrong(facts, account="lung", qos="normal") == []


def test_without_accounting_an_account_is_said_to_be_unchecked_and_not_refused():
    site = Site(name="x", executor="slurm", partitions={"cores": Partition(account="any")}, warn_s=10)
    (found,) = (
        each
        for each in scheduler_findings(site, replace(FACTS, accounts=None, qos=None))
        if each.what.startswith("account")
    )
    assert (found.state, found.detail[:17]) == ("missing", "cannot be checked")


def test_a_gpu_partition_without_gres_is_pointed_out():
    site = Site(name="x", executor="slurm", partitions={"gpu_t4": Partition(device="gpu")}, warn_s=10)
    assert [each.state for each in scheduler_findings(site, FACTS)] == ["ok", "missing"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2-00:00:00", 2880), ("1-12", 2160), ("12:30:00", 750), ("05:00", 5), ("UNLIMITED", None), ("NONE", None)],
)
def test_a_time_limit_in_minutes(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(null)", {}),
        ("gpu:4", {("gpu", ""): 4}),
        ("gpu:t4:2(S:0-1),gpu:a100:1(S:0,3)", {("gpu", "t4"): 2, ("gpu", "a100"): 1}),
        ("gpu:t4", {("gpu", "t4"): 1}),
        ("nvme:100G,gpu:tesla_v100-32gb:8", {("nvme", ""): 100, ("gpu", "tesla_v100-32gb"): 8}),
    ],
)
def test_gres_as_nodes_list_them(text, expected):
    assert gres(text) == expected


GOOD = Site(
    name="good",
    executor="slurm",
    account="root",
    qos="normal",
    mpi_plugin="pmi2",
    partitions={
        "cpu": Partition(cpus=4, mem_gb=4, time_min=60),
        "gpu_t4": Partition(device="gpu", gres="gpu:t4:2"),
    },
)


def changed(**values):
    return GOOD.model_copy(update=values)


@pytest.mark.slurm
def test_a_real_cluster_says_what_it_has(cluster):
    facts = ask_cluster("root")
    assert sorted(facts.partitions) == ["cpu", "gpu_t4", "urgent"]
    assert facts.partitions["gpu_t4"].nodes[0] == Node("g1", True, 4, 4096, T4)
    assert (facts.name, facts.kill_wait_s, facts.partitions["urgent"].preempt_mode) == ("throwaway", 10, "OFF")
    assert facts.accounts == {"root"}
    assert facts.qos == {"normal": None}
    assert {"none", "pmi2"} <= set(facts.mpi_plugins)
    cluster.run("scontrol", "update", "nodename=c1", "state=drain", "reason=State=IDLE is not what counts")
    assert [node.up for node in ask_cluster("root").partitions["cpu"].nodes] == [False, True]


SITE_FILE = 'name = "hall"\nexecutor = "slurm"\n[partitions.cpu]\ncpus = 1\ntime_min = 5\n'


def doctor(site, *words):
    """Exit code and output of `mspipeline doctor` for a site file; it tries every backend too, which takes a while."""
    command = [sys.executable, "-P", "-c", "from mspipeline.cli import main; main()", "doctor", "--site", str(site)]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False, env=dict(os.environ))
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slurm
def test_a_real_partition_whose_nodes_are_drained_is_a_warning_and_the_sweep_waits(cluster, tmp_path):
    site = tmp_path / "site.toml"
    site.write_text(SITE_FILE)
    cluster.run("scontrol", "update", "nodename=c1,c2", "state=drain", "reason=disk")
    (found,) = [each for each in examine_site(str(site)) if each.what == "partition 'cpu'"]
    # A node that was drained a moment ago may be `idle+drain+not_responding` by now.
    expected = r"none of its 2 nodes is in service \(c1 idle\+drain\S*, c2 idle\+drain\S*\): cells wait until one is"
    assert (found.state, bool(re.fullmatch(expected, found.detail))) == ("warning", True)
    check_site(load_site(str(site)))  # does not refuse
    assert cluster.run("sbatch", "--parsable", "--output=/dev/null", "-p", "cpu", "--wrap", "true").strip().isdecimal()


@pytest.mark.slurm
@pytest.mark.parametrize(("state", "takes"), [("down", True), ("drain", False), ("inactive", False)])
def test_a_real_partition_is_refused_where_sbatch_would_refuse(cluster, tmp_path, state, takes):
    site = tmp_path / "site.toml"
    site.write_text(SITE_FILE)
    cluster.run("scontrol", "update", "partitionname=cpu", f"state={state}")
    try:
        asked = ["sbatch", "--output=/dev/null", "-p", "cpu", "--wrap", "true"]
        assert (subprocess.run(asked, capture_output=True, check=False).returncode == 0) is takes
        (found,) = [each for each in examine_site(str(site)) if each.what == "partition 'cpu'"]
        assert found.state == ("warning" if takes else "broken")
        assert found.detail.startswith(f"its state is {state.upper()}: ")
        if takes:
            check_site(load_site(str(site)))
        else:
            with pytest.raises(ConfigError, match=f"its state is {state.upper()}: it takes no jobs"):
                check_site(load_site(str(site)))
    finally:
        cluster.run("scontrol", "update", "partitionname=cpu", "state=up")


@pytest.mark.parametrize(
    "text",
    [
        'name = "hall"\nexecutr = "slurm"\n[partitions.cpu]\n',
        'name = "hall',
        'name = "hall"\nexecutor = "slurm"\n[partitions.cpu]\ntime_min = 1\n',
        'name = "hall"\nexecutor = "slurm"\n[partitions.cpu]\ngres = "gpu 3"\n',
        None,
    ],
)
def test_a_bad_site_file_is_named_once_on_one_line(tmp_path, text):
    site = tmp_path / "hall.toml"
    if text is not None:
        site.write_text(text)
    (found,) = examine_site(str(site))
    assert (found.what, found.state) == ("site", "broken")
    assert found.detail.startswith(f"{site}: ")
    assert (found.detail.count(str(site)), str(site) in found.remedy) == (1, False)
    assert not any(word in found.detail for word in ("value error", "{", ": file: ", "\n"))


@pytest.mark.slow
def test_doctor_ends_with_78_where_a_line_is_broken(tmp_path):
    site = tmp_path / "hall.toml"
    site.write_text("name = 3\n")
    code, said, errors = doctor(site, "--json")
    assert [each["state"] for each in json.loads(said) if each["what"] == "site"] == ["broken"]
    assert (code, errors) == (78, "error: doctor: broken: site; do what the lines above say\n")


@pytest.mark.slurm
def test_a_site_that_fits_its_real_cluster_is_well(cluster):
    check_site(GOOD)
    found = site_findings(GOOD)
    assert {each.state for each in found} == {"ok"}
    assert [each.what for each in found] == [
        "SLURM",
        "partition 'cpu'",
        "partition 'gpu_t4'",
        "account 'root'",
        "qos 'normal'",
        "end of a cell",
        "mpi srun",
    ]


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("site", "said"),
    [
        (
            changed(partitions={"gpu": Partition()}),
            "partition 'gpu': not on this cluster; it has cpu, gpu_t4, urgent; correct [partitions.gpu]",
        ),
        (changed(account="radiology"), "account 'radiology': not on this cluster; it has root"),
        (changed(qos="fast"), "qos 'fast': not on this cluster; it has normal"),
        # sbatch takes 40 cores here (EnforcePartLimits=NO), and the job waits for ever.
        (changed(partitions={"cpu": Partition(cpus=40)}), "cpus = 40, but a node offers 4 at most"),
        (changed(partitions={"cpu": Partition(mem_gb=5)}), "mem_gb = 5, but a node offers 4 at most"),
        (
            changed(partitions={"gpu_t4": Partition(device="gpu", gres="gpu:a100:1")}),
            "gres 'gpu:a100:1': no node has that; its nodes have gpu:t4:2",
        ),
        (
            changed(partitions={"a": Partition(), "b": Partition()}),
            "partition 'a': not on this cluster; it has cpu, gpu_t4, urgent; correct [partitions.a] of the site file "
            "(and 1 more: see `mspipeline doctor --site`)",
        ),
    ],
)
def test_a_site_that_does_not_fit_its_real_cluster_is_refused_in_one_line(cluster, site, said):
    with pytest.raises(ConfigError) as refusal:
        check_site(site)
    assert said in str(refusal.value)
    assert str(refusal.value).startswith("site good: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.slurm
def test_a_time_limit_above_the_partitions_is_refused_before_submission(cluster):
    cluster.run("scontrol", "update", "partition=cpu", "maxtime=30")
    try:
        with pytest.raises(ConfigError, match=r"time_min = 60 is above its limit, 30; lower time_min"):
            check_site(GOOD)
    finally:
        cluster.run("scontrol", "update", "partition=cpu", "maxtime=infinite")


@pytest.mark.slurm
def test_a_cluster_that_does_not_answer_is_one_line(cluster, monkeypatch, tmp_path):
    (tmp_path / "slurm.conf").write_text("ClusterName=x\n")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(ConfigError, match=r"scontrol failed .*work on a login node of the cluster") as refusal:
        check_site(GOOD)
    assert "\n" not in str(refusal.value)
    assert [(each.what, each.state) for each in site_findings(GOOD)] == [("SLURM", "broken")]


def test_without_slurm_its_programs_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = site_findings(GOOD)
    assert (found.state, found.detail) == ("broken", "no sbatch, squeue, scancel, scontrol, sinfo, srun on the PATH")
    with pytest.raises(ConfigError, match="scontrol: not found here; work on a login node"):
        check_site(GOOD)


def test_an_image_that_is_missing_or_not_the_pinned_one_is_broken_even_where_no_runtime_is(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    zeros = f"sha256:{'0' * 64}"

    def found(digest):
        site = Site(
            name="x",
            executor="slurm",
            container="apptainer",
            image_folder=tmp_path,
            images={"torch": Image(file="torch.sif", digest=digest)},
            partitions={"cpu": Partition()},
        )
        (finding,) = image_findings(site, ["torch"])
        return finding.what, finding.state, finding.detail

    missing = f"{tmp_path}/torch.sif: no such image (backend 'torch', site x); {tmp_path} has none"
    assert found(None) == ("image 'torch'", "broken", missing)
    (tmp_path / "torch.sif").write_bytes(b"abc")
    assert found(None)[1:] == (
        "missing",
        f"{tmp_path}/torch.sif, without a digest: not looked into, no apptainer on this machine",
    )
    assert found(abc)[1:] == ("missing", f"{tmp_path}/torch.sif, {abc}: not looked into, no apptainer on this machine")
    pinned = f"{tmp_path}/torch.sif ({abc}): not the image that the site pins for backend 'torch', {zeros}"
    assert found(zeros)[1:] == ("broken", pinned)


@pytest.mark.slurm
def test_the_sweep_command_refuses_before_anything_is_written(cluster, tmp_path, shards):
    site = tmp_path / "site.toml"
    site.write_text('name = "hall"\nexecutor = "slurm"\n[partitions.gpu]\n')
    sweep = tmp_path / "sweep.toml"
    sweep.write_text('name = "s"\n[matrix]\nmodel = ["unet2d"]\n')
    command = [sys.executable, "-P", "-c", "from mspipeline.cli import main; main()"]
    start = [*command, "sweep", str(sweep), "--shards", str(shards), "--site", str(site), "-o", str(tmp_path / "out")]
    done = subprocess.run(start, capture_output=True, text=True, check=False, cwd=tmp_path, env=dict(os.environ))
    assert done.returncode == 78
    assert "site hall: partition 'gpu': not on this cluster; it has cpu, gpu_t4, urgent" in " ".join(
        done.stderr.split()
    )
    assert not (tmp_path / "out").exists()
