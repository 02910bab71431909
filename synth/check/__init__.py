"""What can be known of a run before it starts: mistakes, data, servers, costs. Writes nothing.

`findings` is the one kind of result that all share; `mistakes` reads the job and the files it names, `data` a sample
of the corpora, `servers` asks each server once, `costs` adds up calls, tokens and bytes.
"""
