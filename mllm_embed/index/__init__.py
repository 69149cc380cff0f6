"""FAISS behind one interface: an index of a store, built in bounded memory and measured.

`kinds` lists what can be built, `target` chooses among them.
"""
