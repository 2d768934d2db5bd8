"""Text in csv files that spreadsheets open."""

_FORMULA_SIGNS = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
)  # the last four in full width


def guarded(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula: behind an apostrophe if it begins like one.

    Source: OWASP, CSV Injection.
    """
    return f"'{text}" if text.startswith(_FORMULA_SIGNS) else text
