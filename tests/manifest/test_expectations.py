# SPDX-License-Identifier: GPL-2.0-only
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.manifest.expectations import CAPABILITIES, contradictions, expectations, parse_release
from harness.verdict.results import Expectation


def present(release: str, declared: dict[str, bool] | None = None, *, debian: bool) -> set[str]:
    expected = expectations(release, debian, declared or {})
    return {name for name, expectation in expected.items() if expectation.present}


EVERYTHING = set(CAPABILITIES)
BEFORE_6_17 = EVERYTHING - {"tcp_maxseg"}
BEFORE_6_15 = BEFORE_6_17 - {"transparent_get"}
BEFORE_6_10 = BEFORE_6_15 - {"tcp_keepalive", "tcp_is_mptcp", "last_data"}
BEFORE_6_8 = BEFORE_6_10 - {"tcp_notsent_lowat", "local_port_range", "subflows_total"}
BEFORE_6_5 = BEFORE_6_8 - {"packet_stats", "full_info"}
BEFORE_6_2 = BEFORE_6_5 - {"tcp_fastopen"}
BEFORE_6_1 = BEFORE_6_2 - {"tcp_fastopen_connect"}
BEFORE_5_17 = BEFORE_6_1 - {"ip_tos", "tcp_cork_nodelay", "tcp_inq"}


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-50-amd64", (6, 1)),
        ("6.12.107+deb13-amd64", (6, 12)),
        ("6.19-rc3", (6, 19)),
        ("6.19.0-rc3-00012-gabcdef", (6, 19)),
        ("7.3.4+deb13-amd64", (7, 3)),
        ("5.10.0-32-amd64", (5, 10)),
        ("6.6", (6, 6)),
        ("6.10", (6, 10)),
        ("next-20260101", None),
        ("6", None),
        ("6.x", None),
        ("1234.5", None),
        ("", None),
    ],
)
def test_a_release_is_read_as_major_and_minor(
    release: str, version: tuple[int, int] | None
) -> None:
    assert parse_release(release) == version


# The rows of real kernels, as measured.
@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("5.10.0-32-amd64", {"ipv6"}),
        ("6.1.0-50-amd64", BEFORE_6_2),
        ("6.12.107+deb13-amd64", BEFORE_6_15),
        ("6.16.3+deb13-amd64", BEFORE_6_17),
        ("6.17.8+deb13-amd64", EVERYTHING),
        ("7.3.4+deb13-amd64", EVERYTHING),
    ],
)
def test_debian_kernels_are_not_expected_to_have_more_than_they_were_seen_to_have(
    release: str, expected: set[str]
) -> None:
    assert present(release, debian=True) == expected


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("5.5.0", {"ipv6"}),
        ("5.6.0", {"ipv6", "mptcp", "mptcp_ipv6"}),
        ("5.15.11", {"ipv6", "mptcp", "mptcp_ipv6"}),
        ("5.16.0", BEFORE_5_17),
        ("5.17.0", BEFORE_6_1),
        ("6.0.19", BEFORE_6_1),
        ("6.1.0-rc1", BEFORE_6_2),
        ("6.4.16", BEFORE_6_5),
        ("6.5.0-rc1", BEFORE_6_8),
        ("6.8.0", BEFORE_6_10 - {"tcp_notsent_lowat"}),
        ("6.9.0", BEFORE_6_10),
        ("6.10.0", BEFORE_6_15),
        ("6.15.0", BEFORE_6_17),
        ("6.17.0-rc1", EVERYTHING),
    ],
)
def test_mainline_kernels_are_expected_to_have_what_their_version_brought(
    release: str, expected: set[str]
) -> None:
    assert present(release, debian=False) == expected


def test_expectations_stand_in_the_order_of_the_table() -> None:
    assert list(expectations("6.12", False, {"mptcp": True})) == list(CAPABILITIES)


def test_mptcp_5_10_is_expected_of_a_kernel_that_debian_did_not_build() -> None:
    assert "mptcp" in present("5.10.0", debian=False)


def test_why_names_the_version_that_brought_a_capability() -> None:
    expected = expectations("6.12.1", False, {})["full_info"]
    assert expected == Expectation(True, "mainline has it since 6.5")


def test_why_of_an_absence_names_both_versions() -> None:
    expected = expectations("6.1.0-50-amd64", True, {})["full_info"]
    assert expected == Expectation(False, "mainline has it since 6.5, this is 6.1")


def test_why_of_bullseye_names_debian() -> None:
    expected = expectations("5.10.0-32-amd64", True, {})["mptcp"]
    assert expected == Expectation(False, "Debian builds MPTCP in since 5.14, this is 5.10")


def test_why_of_an_unreadable_release_says_that_it_was_taken_for_the_newest() -> None:
    assert expectations("next-20260101", False, {})["full_info"] == Expectation(
        True,
        "mainline has it since 6.5; "
        "the release 'next-20260101' has no version number and is treated as the newest",
    )


def test_what_the_manifest_declares_is_strict() -> None:
    expected = expectations("6.1.0-50-amd64", True, {"full_info": True})["full_info"]
    assert expected == Expectation(True, "the manifest says full_info: true", strict=True)


def test_a_declaration_leaves_the_others_to_the_version() -> None:
    assert present("6.1.0", {"full_info": True}, debian=False) == BEFORE_6_2 | {"full_info"}


def test_without_mptcp_nothing_that_needs_it_is_expected() -> None:
    assert present("7.3.4", {"mptcp": False}, debian=False) == {"ipv6"}


def test_without_mptcp_info_none_of_its_parts_is_expected() -> None:
    absent = EVERYTHING - present("7.3.4", {"mptcp_info": False}, debian=False)
    assert absent == {"mptcp_info", "packet_stats", "subflows_total", "last_data"}


def test_what_follows_from_a_declaration_is_not_strict() -> None:
    expected = expectations("7.3.4", False, {"mptcp": False})["full_info"]
    assert expected == Expectation(
        False, "it needs mptcp, which is not expected: the manifest says mptcp: false"
    )


def test_what_a_capability_requires_stands_before_it() -> None:
    names = list(CAPABILITIES)
    for name, spec in CAPABILITIES.items():
        assert all(names.index(needed) < names.index(name) for needed in spec.requires)


@pytest.mark.parametrize(
    ("declared", "found"),
    [
        ({"mptcp": False, "packet_stats": True}, [("packet_stats", "mptcp")]),
        ({"mptcp": False, "full_info": False}, []),
        ({"mptcp": True, "full_info": False}, []),
        ({"ipv6": False, "full_info": True}, []),
    ],
)
def test_a_declaration_contradicts_itself_when_a_need_is_declared_absent(
    declared: dict[str, bool], found: list[tuple[str, str]]
) -> None:
    assert contradictions(declared) == found


@settings(deadline=None)  # machines that boot kernels are busy
@given(st.text(), st.booleans())
def test_any_release_has_expectations_whose_reasons_are_printable(
    release: str, debian: bool
) -> None:
    expected = expectations(release, debian, {})
    assert all(expectation.why.isprintable() for expectation in expected.values())
