"""`subsetopt guide`: the manual, page by page."""

from __future__ import annotations

import click

from subsetopt.guide import page, pages
from subsetopt.report.table import text_table
from subsetopt_cli.output import debug_option, json_option, print_json


@click.command(
    "guide",
    short_help="Print a page of the manual, or the list of its topics.",
    epilog="Example: subsetopt guide strategies",
)
@click.argument("topic", required=False)
@json_option
@debug_option
def command(topic: str | None, as_json: bool) -> None:
    """Print a page of the manual, or the list of its topics.

    Pages are Markdown. Every command in them is run by the project's tests.
    """
    if topic is None:
        entries = [(name, page.title) for name, page in pages().items()]
        if as_json:
            print_json([{"name": name, "summary": title} for name, title in entries])
        else:
            click.echo("\n".join(text_table(entries, indent="", left=2)))
            click.echo("\nPrint one with `subsetopt guide TOPIC`.")
        return
    found = page(topic)
    if as_json:
        print_json({"name": found.topic, "summary": found.title, "text": found.text})
    else:
        click.echo(found.text.rstrip("\n"))
