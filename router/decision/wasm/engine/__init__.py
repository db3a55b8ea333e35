"""Plan and decide, in the language of `language`."""
