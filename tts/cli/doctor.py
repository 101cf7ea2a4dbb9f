"""`tts doctor`: what an endpoint can do, and what is installed here."""

from __future__ import annotations

import asyncio
import platform
import re
import sys
from collections import defaultdict
from contextlib import redirect_stdout
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tts.cli.common import AsJson, BaseUrl, Model, checked, console, model_or_default, place, show_json
from tts.errors import ConfigError, EndpointError
from tts.tables import Table
from tts.text import counted

if TYPE_CHECKING:
    from tts.sampler.probe import Capabilities

EPILOG = """\
\b
Examples:
  tts doctor --base-url http://localhost:8000/v1
  tts doctor --json

It sends about twenty small requests and reports their cost.

tts doctor --executor ray:address=auto asks the nodes of a cluster instead.

Exit code: 0 the endpoint answers prompts, 1 it does not, 2 invalid usage or settings.
"""

SIGNS: dict[bool | None, tuple[str, str]] = {True: ("yes", "green"), False: ("no", "red"), None: ("?", "yellow")}


def doctor(
    base_url: BaseUrl = None,
    model: Model = None,
    executor: Annotated[
        str, typer.Option(metavar="SPEC", help="Show instead what a cluster has: ray:address=auto.")
    ] = "local",
    as_json: AsJson = False,
) -> None:
    """Find out what an endpoint can do.

    Each "no" comes with its reason. Also shows what is installed here.
    """
    from tts.runs.executors import LocalExecutor, executor_named

    where = executor_named(executor)
    if not isinstance(where, LocalExecutor):
        _show_cluster(asyncio.run(_survey(where)), as_json)
        return
    here = local_facts()
    if not as_json:
        _show_local(here)
    name, url, found = asyncio.run(_probe(base_url, model))
    if as_json:
        show_json({"base_url": url, "model": name, **as_table(found), "local": here})
    else:
        _show(name, url, found)
    if not (found.chat or found.completions):
        raise typer.Exit(1)


async def _survey(executor: Any) -> list[dict[str, Any]]:
    with redirect_stdout(sys.stderr):  # Ray prints what becomes of nodes
        async with executor:
            return await executor.survey()


def _show_cluster(nodes: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show_json({"nodes": nodes})
        return
    made = Table(counted(len(nodes), "node"), ("node", "resources", "ttscale", "isolation", "remark"))
    for node in nodes:
        there = ", ".join(f"{name} {amount:,g}" for name, amount in node["resources"].items())
        made.add_row(
            node["name"], there, node["ttscale"] or "?", ", ".join(node["isolation"]) or "none", node["remark"]
        )
    console().print(made)


async def _probe(base_url: str | None, model: str | None) -> tuple[str, str, Capabilities]:
    from tts.sampler import Endpoint, Sampler
    from tts.sampler.probe import probe

    endpoint = checked(Endpoint, model=model or "", **place(base_url))
    url, *others = endpoint.urls
    if others:
        raise ConfigError(f"doctor examines one server at a time: --base-url {url}")
    try:
        name = await model_or_default(model, base_url)
    except EndpointError:
        name = ""  # the probe tells what is wrong
    async with Sampler(endpoint.model_copy(update={"model": name})) as sampler:
        return name, url, await probe(sampler)


def as_table(found: Capabilities) -> dict[str, Any]:
    """Capabilities as plain data for JSON."""
    return {
        "server": found.server,
        "models": list(found.models),
        "capabilities": {name: {"ok": one.ok, "why": one.why} for name, one in found.as_dict().items()},
        "cost": found.cost.as_dict(),
    }


def _show(name: str, url: str, found: Capabilities) -> None:
    from rich.text import Text

    from tts.sampler.probe import NOT_TRIED

    made = Table(f"{url}: {name or 'no model'}, server: {found.server}", ("capability", "", "why"))
    for capability, one in found.as_dict().items():
        if one != NOT_TRIED:
            made.add_row(capability.replace("_", " "), Text(*SIGNS[one.ok]), one.why)
    console().print(made)
    cost = found.cost
    typer.echo(
        f"The probe took {counted(cost.requests, 'request')}, {counted(cost.prompt_tokens, 'prompt token')} "
        f"and {counted(cost.completion_tokens, 'generated token')}."
    )


# -- this installation ---------------------------------------------------------------------------------------------


def local_facts() -> dict[str, Any]:
    """Versions, the packages of each extra, and the layers that isolate untrusted programs here."""
    from tts.verifiers.sandbox import SandboxError, isolation_report

    try:
        isolation = {one.layer: {"holds": one.active, "why": one.reason} for one in isolation_report()}
    except SandboxError as error:
        isolation = {"sandbox": {"holds": False, "why": str(error)}}
    packages: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
    for requirement in metadata.requires("ttscale") or []:
        name = re.split(r"[^\w.-]", requirement)[0]
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        packages[extra[1] if extra else "core"][name] = _installed(name)
    return {
        "ttscale": metadata.version("ttscale"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages["core"],
        "extras": {
            extra: {"installed": None not in versions.values(), "packages": versions}
            for extra, versions in packages.items()
            if extra not in ("core", "dev", "all")
        },
        "isolation": isolation,
    }


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _show_local(facts: dict[str, Any]) -> None:
    typer.echo(f"ttscale {facts['ttscale']}, Python {facts['python']}, {facts['platform']}")
    typer.echo(", ".join(f"{name} {version}" for name, version in facts["packages"].items()))
    for extra, state in facts["extras"].items():
        packages = ", ".join(f"{name} {version or 'missing'}" for name, version in state["packages"].items())
        typer.echo(f"extra {extra}: {'installed' if state['installed'] else 'not installed'} ({packages})")
    for layer, state in facts["isolation"].items():
        typer.echo(f"isolation by {layer}: {'yes' if state['holds'] else 'no'} ({state['why']})")
    typer.echo()
