"""What the root command hands to the queue's commands: the handlers, which the queue itself may not import."""

import click

from flatearth_pipelines.queue.handlers import Registry


def handlers() -> Registry:
    """The registry that the root command put into its context's `obj`.

    Raises:
        RuntimeError: there is none; a mistake of ours, not of the person at the terminal.
    """
    registry: Registry | None = click.get_current_context().find_root().obj
    if registry is None:
        raise RuntimeError("The root command has to set its context's obj to the Registry of handlers")
    return registry
