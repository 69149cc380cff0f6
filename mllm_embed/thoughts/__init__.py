"""A composed query that thinks first: the model writes what is looked for, and goes on to the token that is pooled.

`form` is the setting that is saved with a model, `writer` lays out prompt, thought and what follows, `decoding` writes
and embeds in one pass, `thinking` is the two with what was thought before, `asking` says thoughts as words.
"""
