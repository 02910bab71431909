"""What every served model has in common, whatever it serves; adapters in `llm/` and `embed/` build on it.

urls        base URLs as written in jobs: ranges, checks, and how they are shown
access      options of every server: key from the environment, CA file, proxies
clock       time and sleeping as a seam, so that an outage of an hour is tested in a millisecond
faults      what one failed call means: wait, reject this item, or stop the run
retry_after the three forms in which a server says when to come back
engines     vLLM's data-parallel engines behind one URL: a passage keeps its own
pool        which server next: affinity, down and trial, the outage clock
retry       the one retry policy, over a pool
http        JSON over aiohttp, for vLLM's own servers
provider    options of providers reached by the openai package
fleet       transport, pool and retry put together
sdk         JSON over the openai package, for everyone else's
probe       what `synth check` learns of a server
"""
