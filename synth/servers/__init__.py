"""What all served models share; the adapters in `llm/`, `embed/` and `rerank/` build on it.

faults   URLs, and what one failed call means: retry, reject this item, or stop the run
limiter  how many requests one server gets at once
pool     which server is next: affinity, servers that are down, the outage clock
fleet    one model on interchangeable servers, with the retry policy
http     JSON over aiohttp, for vLLM's own servers
sdk      the openai package, for every other provider
probe    texts by which `synth check` tells a meaningful score from noise
"""
