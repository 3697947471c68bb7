"""The commands of ``distilpose``, a file each: arguments, one call, exit code."""
