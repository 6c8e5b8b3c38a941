# SPDX-License-Identifier: GPL-2.0-only
import re
from pathlib import Path

import pytest

from harness.manifest.kernels_yaml import (
    Accel,
    DebSource,
    FileSource,
    GitSource,
    ImageSource,
    KernelEntry,
    Manifest,
    ManifestError,
    Source,
    TreeSource,
    UpstreamSource,
    UrlSource,
    for_image,
    load,
)

GOOD = Path(__file__).parent / "data" / "good"


def written(directory: Path, text: str) -> Manifest:
    path = directory / "kernels.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def upstream(directory: Path, keys: str, defaults: str = "{}") -> KernelEntry:
    text = f"defaults: {defaults}\nkernels: [{{name: a, upstream: v6.6, {keys}}}]\n"
    return written(directory, text).entries[0]


@pytest.fixture
def every_key() -> dict[str, KernelEntry]:
    return {entry.name: entry for entry in load(GOOD / "every_key.yaml").entries}


def test_entries_keep_the_order_of_the_file(every_key: dict[str, KernelEntry]) -> None:
    assert list(every_key) == ["debian-6.1", "patched", "tree", "6.10", "debian-6.12"]


def test_each_key_of_an_entry_is_typed(every_key: dict[str, KernelEntry]) -> None:
    assert every_key["patched"] == KernelEntry(
        name="patched",
        source=ImageSource(GOOD / "image", GOOD, "abcdef" + 58 * "0"),
        where=f"{GOOD}/every_key.yaml:12:5",
        cpus=4,
        memory_mib=192,
        accel=Accel.TCG,
        timeout_s=10,
        append=("nosmt", "nokaslr", "slub_debug=FZ", "mptcp.a=1", "ftrace_filter=mptcp_*"),
        expect={"full_info": True, "ip_tos": True},
        known_issues=GOOD / "issues.yaml",
    )


def test_defaults_fill_what_an_entry_leaves_out(every_key: dict[str, KernelEntry]) -> None:
    assert every_key["debian-6.1"] == KernelEntry(
        name="debian-6.1",
        source=DebSource("bookworm", "linux-image-amd64"),
        where=f"{GOOD}/every_key.yaml:10:5",
        cpus=2,
        memory_mib=1024,
        accel=Accel.KVM,
        timeout_s=300,
        append=("nosmt", "nokaslr"),
        expect={"full_info": False, "ip_tos": True},
        known_issues=GOOD / "issues.yaml",
    )


def test_without_defaults_an_entry_has_the_documented_ones(tmp_path: Path) -> None:
    entry = written(tmp_path, "kernels: [{name: a, upstream: v6.6}]").entries[0]
    assert entry == KernelEntry(
        name="a",
        source=UpstreamSource("v6.6"),
        where=f"{tmp_path}/kernels.yaml:1:11",
        is_series=False,
        cpus=1,
        memory_mib=512,
        accel=Accel.AUTO,
        timeout_s=120,
        append=(),
        expect={},
        known_issues=None,
    )


def test_a_tree_is_found_from_the_manifests_directory(every_key: dict[str, KernelEntry]) -> None:
    assert every_key["tree"].source == TreeSource(GOOD / "..")


def test_a_series_keeps_its_pattern(every_key: dict[str, KernelEntry]) -> None:
    series = every_key["debian-6.12"]
    assert series.is_series
    assert series.source == DebSource("trixie", "linux-image-6.12.*+deb13-amd64")


def test_an_existing_image_of_the_wrong_kind_is_no_error_of_the_manifest() -> None:
    manifest = load(GOOD / "images_of_the_wrong_kind.yaml")
    assert [entry.name for entry in manifest.entries] == ["directory", "text", "empty"]


def test_plain_aliases_are_followed() -> None:
    first, second = load(GOOD / "aliases.yaml").entries
    assert second.source == DebSource("bookworm", "linux-image-cloud-amd64")
    assert second.expect == first.expect == {"full_info": False}


def test_scalars_that_yaml_would_type_stay_text() -> None:
    manifest = load(GOOD / "plain_scalars_stay_text.yaml")
    assert [entry.name for entry in manifest.entries] == ["6.10", "no", "0x1F", "1_000"]


def test_a_byte_order_mark_does_not_shift_the_columns() -> None:
    assert load(GOOD / "byte_order_mark.yaml").entries[0].where.endswith(".yaml:2:5")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bzImage").touch()
    entry = written(tmp_path, "kernels: [{name: a, image: ~/bzImage}]").entries[0]
    assert entry.source == ImageSource(tmp_path / "bzImage")


def test_paths_are_absolute_when_the_manifest_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bzImage").touch()
    entry = written(Path(), "kernels: [{name: a, image: bzImage}]").entries[0]
    assert entry.source == ImageSource(tmp_path / "bzImage")
    assert entry.where == "kernels.yaml:1:11"


@pytest.mark.parametrize(
    ("memory", "mib"), [("128M", 128), ("512M", 512), ("1G", 1024), ("64G", 65536)]
)
def test_memory_is_read_in_mib(tmp_path: Path, memory: str, mib: int) -> None:
    assert upstream(tmp_path, f"memory: {memory}").memory_mib == mib


@pytest.mark.parametrize("cpus", [1, 64])
def test_the_limits_of_cpus_are_allowed(tmp_path: Path, cpus: int) -> None:
    assert upstream(tmp_path, f"cpus: {cpus}").cpus == cpus


@pytest.mark.parametrize("timeout", [10, 3600])
def test_the_limits_of_timeout_are_allowed(tmp_path: Path, timeout: int) -> None:
    assert upstream(tmp_path, f"timeout: {timeout}").timeout_s == timeout


@pytest.mark.parametrize("tag", ["v5.6", "v6.6.12", "v6.7-rc1", "v7.3"])
def test_mainline_and_stable_tags_are_allowed(tmp_path: Path, tag: str) -> None:
    text = f"kernels: [{{name: a, upstream: {tag}}}]"
    assert written(tmp_path, text).entries[0].source == UpstreamSource(tag)


SHA256 = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("keys", "source"),
    [
        (
            "deb: {suite: bookworm, package: linux-image-amd64}",
            DebSource("bookworm", "linux-image-amd64", SHA256),
        ),
        ("upstream: v6.6", UpstreamSource("v6.6", SHA256)),
        ("tree: .", None),
        ("image: kernels.yaml", None),
    ],
    ids=["deb", "upstream", "tree", "image"],
)
def test_every_source_takes_the_hash_of_its_image(
    tmp_path: Path, keys: str, source: Source | None
) -> None:
    text = f"kernels: [{{name: a, {keys}, sha256: {SHA256.upper()}}}]"
    found = written(tmp_path, text).entries[0].source
    assert found.sha256 == SHA256
    assert source in (None, found)


def test_the_longest_name_is_allowed(tmp_path: Path) -> None:
    name = 80 * "a"
    assert written(tmp_path, f"kernels: [{{name: {name}, upstream: v6.6}}]").entries[0].name == name


@pytest.mark.parametrize("argument", ["initcall_debug", "panic_on_warn=1", "rootwait", "a-b.c_d=1"])
def test_arguments_that_only_resemble_the_harness_own_are_allowed(
    tmp_path: Path, argument: str
) -> None:
    assert upstream(tmp_path, f"append: {argument}").append == (argument,)


def test_append_as_text_is_split_at_every_space(tmp_path: Path) -> None:
    assert upstream(tmp_path, "append: 'a=1  b '").append == ("a=1", "b")


def test_an_entrys_expectation_may_overrule_a_default_that_needs_it(tmp_path: Path) -> None:
    entry = upstream(
        tmp_path, "expect: {mptcp: false, full_info: false}", "{expect: {full_info: true}}"
    )
    assert entry.expect == {"full_info": False, "mptcp": False}


def test_an_image_of_the_command_line_is_named_after_its_file(tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.touch()
    entry = for_image(image, tmp_path)
    assert entry == KernelEntry("bzImage", ImageSource(image, tmp_path), "the command line")


@pytest.mark.parametrize(
    ("file", "name"), [("my kernel:1", "my-kernel-1"), (".hidden", "hidden"), ("ß", "image")]
)
def test_the_name_of_an_image_of_the_command_line_is_safe_as_a_file_name(
    tmp_path: Path, file: str, name: str
) -> None:
    (tmp_path / file).touch()
    assert for_image(tmp_path / file).name == name


def test_an_image_of_the_command_line_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bzImage").touch()
    assert for_image(Path("bzImage")).source == ImageSource(tmp_path / "bzImage")


def test_the_files_of_a_developer_are_sources(tmp_path: Path) -> None:
    for name in ("a.deb", "core.rpm", "modules.rpm", "x.tgz"):
        (tmp_path / name).touch()
    entries = written(
        tmp_path,
        "kernels:\n"
        "- {name: a, deb: {file: a.deb}}\n"
        "- {name: b, rpm: {file: [core.rpm, modules.rpm]}}\n"
        "- {name: c, tar: {file: x.tgz}}\n"
        f"- {{name: d, url: {{image: 'https://x.org/b', sha256: {'A' * 64}}}}}\n",
    ).entries
    assert [entry.source for entry in entries] == [
        FileSource("deb", (tmp_path / "a.deb",)),
        FileSource("rpm", (tmp_path / "core.rpm", tmp_path / "modules.rpm")),
        FileSource("tar", (tmp_path / "x.tgz",)),
        UrlSource("https://x.org/b", None, "a" * 64),
    ]


def test_another_archive_has_a_mirror_and_keys(tmp_path: Path) -> None:
    (tmp_path / "keys.gpg").touch()
    deb = "mirror: 'http://x.org/ubuntu', suite: noble, package: linux-image-generic"
    text = f"kernels: [{{name: u, deb: {{{deb}, signed_by: keys.gpg}}}}]"
    source = written(tmp_path, text).entries[0].source
    keys = tmp_path / "keys.gpg"
    assert source == DebSource("noble", "linux-image-generic", None, "http://x.org/ubuntu", keys)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("deb: {file: keys, suite: trixie}", "belongs to a package of an archive"),
        ("deb: {file: none.deb}", "no file 'none.deb'"),
        ("rpm: {file: []}", "expected the path of a file"),
        ("tar: {}", "the key 'file' is missing; expected a mapping such as {file: linux.tar.gz}"),
        ("deb: {suite: a, package: bb, mirror: 'http://x.org/'}", "the key 'signed_by' is missing"),
        ("deb: {suite: a, package: bb, mirror: 'ftp://x.org/'}", "expected an address"),
        ("url: {image: bzImage}", "expected an address such as https://"),
        ("url: {image: 'http://x.org/a b'}", "expected an address such as https://"),
        ("url: {image: 'https://x.org/b', size: 3}", "unknown key"),
    ],
)
def test_a_source_of_a_developer_with_a_fault_is_refused(
    tmp_path: Path, source: str, said: str
) -> None:
    (tmp_path / "keys").touch()
    with pytest.raises(ManifestError, match=re.escape(said)):
        written(tmp_path, f"kernels: [{{name: x, {source}}}]")


def test_a_kernel_from_git_has_a_clone_and_a_ref(tmp_path: Path) -> None:
    (tmp_path / "my.config").touch()
    (tmp_path / "linux").mkdir()
    (tmp_path / "queue").mkdir()
    git = "ref: origin/export, config: [debug, my.config, debug.config], patches: queue"
    entries = written(
        tmp_path,
        "defaults: {git: linux}\n"
        "kernels:\n"
        f"- {{name: a, git: {{{git}, toolchain: clang}}}}\n"
        "- {series: s, git: {refs: 'v6.12.*', repo: 'https://x.org/linux.git', fetch: true}}\n",
    ).entries
    config = ("debug", str(tmp_path / "my.config"), "debug.config")
    clone, queue = str(tmp_path / "linux"), (tmp_path / "queue",)
    assert [entry.source for entry in entries] == [
        GitSource(clone, "origin/export", config, "clang", queue),
        GitSource("https://x.org/linux.git", "v6.12.*", fetch=True),
    ]
    assert entries[1].is_series


def test_a_debug_kernel_has_more_memory_and_time_unless_its_entry_says_otherwise(
    tmp_path: Path,
) -> None:
    entries = written(
        tmp_path,
        "defaults: {git: ., memory: 512M}\n"
        "kernels:\n"
        "- {name: a, git: {ref: x}}\n"
        "- {name: b, git: {ref: x, config: [lockdep, kasan]}}\n"
        "- {name: c, git: {ref: x, config: debug}, memory: 768M, timeout: 60}\n",
    ).entries
    found = [(entry.memory_mib, entry.timeout_s) for entry in entries]
    assert found == [(512, 120), (1536, 400), (768, 60)]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("name: x, git: {ref: a}", "no clone; give its path or address"),
        ("name: x, git: {repo: ., refs: 'v6.*'}", "write 'ref'"),
        ("series: x, git: {repo: ., ref: v6.1}", "write 'refs'"),
        ("name: x, git: {repo: .}", "the key 'ref' is missing"),
        ("name: x, git: {repo: none, ref: a}", "no directory 'none'"),
        ("name: x, git: {repo: ., ref: -x}", "expected a branch, tag or commit"),
        ("name: x, git: {repo: ., ref: a, toolchain: tcc}", "expected gcc or clang"),
        ("name: x, git: {repo: ., ref: a, config: ./none}", "no file './none'"),
        (
            "name: x, git: {repo: ., ref: a, config: a/../../b}",
            "is not the name of a configuration",
        ),
        ("name: x, git: {repo: ., ref: a, patches: none}", "no patch 'none'"),
        ("name: x, git: {repo: ., ref: a, fetch: yes}", "expected true or false"),
    ],
)
def test_a_kernel_from_git_with_a_fault_is_refused(tmp_path: Path, entry: str, said: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(said)):
        written(tmp_path, f"kernels: [{{{entry}}}]")
