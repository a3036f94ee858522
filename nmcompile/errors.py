"""What went wrong with the user's input -> the one kind of error shown without a traceback."""


class NmcompileError(Exception):
    """A failure that the user can mend.

    The message is one line: what was found, what was expected, what to do next. Anything
    else that escapes nmcompile is a bug of ours and keeps its traceback.
    """
