# SPDX-License-Identifier: GPL-2.0-only
"""``fleet``: the certificates of a fleet's scheduler, workers and clients."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.cli import arguments
from harness.cli.common import say
from harness.errors import UsageError
from harness.verdict.verdicts import EXIT_OK


def add_fleet(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "fleet", run_fleet)
    command.add_argument("what", choices=("certificates",))
    command.add_argument(
        "directory", type=Path, metavar="DIR", help="a new or empty directory for the certificates"
    )
    command.add_argument(
        "--days",
        type=arguments.Number(1, 3650),
        default=365,
        metavar="N",
        help="make certificates that are valid for N days (default: 365)",
    )
    command.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name or address of the scheduler's host, in its certificate; Dask does not check "
        "it; may be given several times",
    )


def run_fleet(given: argparse.Namespace) -> int:
    """Make the certificates, and say who gets which."""
    try:
        from harness.host import certificates
    except ImportError as error:
        raise UsageError(
            f"certificates need the package cryptography ({error}): "
            "pip install 'mptcp-harness[fleet]'"
        ) from error
    for path in certificates.make(given.directory, given.days, given.host):
        say(str(path))
    place = given.directory
    say("")
    for role, command in (
        ("scheduler", "dask scheduler --protocol tls"),
        ("worker", "dask worker tls://HOST:8786 --nthreads 2 --resources vm=2"),
    ):
        files = f"--tls-ca-file {place}/ca.pem --tls-cert {place}/{role}.pem"
        say(f"{command} {files} --tls-key {place}/{role}-key.pem")
    say(f"mptcp-harness matrix --fleet tls://HOST:8786 --fleet-certificates {place}")
    say(f"keep {place}/ca-key.pem to yourself: it makes more certificates")
    return EXIT_OK
