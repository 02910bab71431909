"""How many calls a server gets at once: the limiter, the rate that moves it, and which server a position goes to."""

from __future__ import annotations

import asyncio

import pytest

from synth.servers.faults import TransientError
from synth.servers.limiter import MIN_LIMIT, START, AdaptiveLimit, Limiter, Load, read_load
from synth.servers.pool import Pool
from synth.stage import ClientSettings

METRICS = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 60.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 7.0
vllm:num_requests_waiting{engine="1",model_name="m"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 7.5e-1
vllm:num_preemptions_total{engine="0",model_name="m"} 3.0
"""


class Clock:
    """Time that moves when it is told to."""

    def __init__(self):
        self.moment = 0.0

    def now(self):
        return self.moment

    def wall(self):
        return self.moment

    async def sleep(self, seconds):
        self.moment += seconds


def filled(rate, count=None):
    """The rate with as many calls under way as its limit, or `count`."""
    rate.in_flight = rate.limit if count is None else count
    rate.was_full = True
    return rate


def test_a_page_of_metrics_is_summed_over_engines():
    assert read_load(METRICS) == Load(running=64.0, waiting=7.0, cache=0.75, preemptions=3.0, engines=2)


def test_a_page_that_is_not_of_vllm_says_nothing():
    assert read_load("process_cpu_seconds_total 12.5\n") is None
    assert read_load("<html>vllm</html>") is None


def test_who_continues_a_passage_goes_before_who_begins_one():
    async def run():
        limiter, order = Limiter(1), []

        async def call(name):
            assert await (limiter.new_passages.wait() if name == "new" else limiter.acquire())
            order.append(name)

        await call("first")
        waiting = [asyncio.create_task(call(name)) for name in ("new", "second call")]
        await asyncio.sleep(0)
        for task in reversed(waiting):
            limiter.release()
            await task
        return order

    assert asyncio.run(run()) == ["first", "second call", "new"]


def test_a_limit_that_moves_up_lets_in_at_once_and_one_that_moves_down_cuts_nobody_off():
    async def run():
        limiter = Limiter(1)
        await limiter.acquire()
        waiting = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
        await asyncio.sleep(0)
        limiter.set_limit(3)
        await asyncio.gather(*waiting[:2])
        limiter.set_limit(1)
        assert limiter.in_flight == 3
        limiter.release()
        limiter.release()
        await asyncio.sleep(0)
        assert not waiting[2].done()
        limiter.release()
        assert await waiting[2]

    asyncio.run(run())


@pytest.mark.parametrize("begins", [True, False])
def test_a_call_cancelled_in_the_queue_takes_no_room(begins):
    async def run():
        limiter = Limiter(1)
        await limiter.acquire()
        gone = asyncio.create_task(limiter.new_passages.wait() if begins else limiter.acquire())
        await asyncio.sleep(0)
        limiter.release()  # room is given to it, and it is cancelled before it runs
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert limiter.in_flight == 0

    asyncio.run(run())


def test_those_who_wait_for_a_dead_server_are_sent_off():
    async def run():
        limiter = Limiter(1)
        await limiter.acquire()
        waiting = [asyncio.create_task(each) for each in (limiter.acquire(), limiter.new_passages.wait())]
        await asyncio.sleep(0)
        limiter.dismiss()
        assert await asyncio.gather(*waiting) == [False, None]

    asyncio.run(run())


def test_the_limit_doubles_until_the_server_is_full_and_settles_just_above_it():
    rate, limits = AdaptiveLimit(1024, Clock()), []
    for _ in range(8):
        filled(rate)
        sent = rate.in_flight
        rate.update(Load(running=min(sent, 64), waiting=max(0, sent - 64)))
        limits.append(rate.limit)
    assert limits[:3] == [2 * START, 4 * START, 8 * START]
    assert all(64 < limit <= 70 for limit in limits[4:])


def test_a_surplus_that_is_still_draining_is_taken_off_once():
    rate = AdaptiveLimit(1024, Clock())
    for sent, waiting in ((128, 100), (110, 46), (90, 26), (75, 11)):
        filled(rate, sent).update(Load(running=64, waiting=waiting))
    assert rate.limit == 68


def test_a_limit_that_is_not_in_the_way_is_not_raised():
    rate = AdaptiveLimit(1024, Clock())
    rate.was_full = False
    rate.update(Load(running=3, waiting=0))
    assert rate.limit == START


def test_a_full_cache_stops_the_rise_and_preemptions_cut():
    rate = AdaptiveLimit(1024, Clock())
    filled(rate).update(Load(running=START, waiting=0, cache=0.95))
    assert rate.limit == START
    filled(rate).update(Load(running=START, waiting=0, cache=0.99, preemptions=2))
    assert MIN_LIMIT <= rate.limit < START


def test_without_metrics_answers_raise_the_limit_and_refusals_cut_it_once_a_second():
    clock = Clock()
    rate = AdaptiveLimit(256, clock)
    for _ in range(START):
        filled(rate).answered()
    assert rate.limit == 2 * START
    rate.refused()
    rate.refused()
    assert rate.limit == int(2 * START * 0.7)
    before = rate.limit
    for _ in range(before + 1):
        filled(rate).answered()
    assert rate.limit == before + 1
    clock.moment += 2
    rate.refused()
    assert rate.limit < before


def test_no_limit_moves_where_the_job_names_one():
    rate = AdaptiveLimit(None, Clock())
    rate.refused()
    rate.update(Load(running=1, waiting=500))
    assert rate.limit is None


def test_new_positions_go_to_the_server_with_the_least_to_do_and_stay_there():
    clock = Clock()
    pool = Pool(
        ["http://a/v1", "http://b/v1"],
        ClientSettings(notify=lambda _: None, clock=clock),
        lambda _: AdaptiveLimit(64, clock),
    )
    slow, quick = pool.servers
    slow.limiter.in_flight = 12
    homes = [pool.pick(n)[0] for n in range(20)]
    assert set(map(id, homes)) == {id(quick)}
    slow.limiter.in_flight, quick.limiter.in_flight = 0, 12
    assert [pool.pick(n)[0] for n in range(20)] == homes
    assert pool.pick(20)[0] is slow


def test_positions_of_a_dead_server_move_and_the_others_stay():
    clock = Clock()
    pool = Pool(
        ["http://a/v1", "http://b/v1"],
        ClientSettings(notify=lambda _: None, clock=clock),
        lambda _: AdaptiveLimit(64, clock),
    )
    homes = [pool.pick(n)[0] for n in range(40)]
    dead, alive = pool.servers
    assert 0 < homes.count(dead) < 40
    pool.failed(dead, TransientError("gone", "unreachable"), 0.0, trial=False)
    assert all(pool.pick(n)[0] is alive for n in range(40))


def test_who_begins_waits_for_no_server_of_its_own_so_a_slow_one_keeps_no_queue():
    clock = Clock()

    async def run():
        urls = ["http://quick/v1", "http://slow/v1"]
        pool = Pool(urls, ClientSettings(notify=lambda _: None, clock=clock), lambda _: AdaptiveLimit(2, clock))
        quick, slow = pool.servers
        for n in range(4):
            await pool.pick(n)[0].limiter.acquire()
        assert (quick.limiter.in_flight, slow.limiter.in_flight) == (2, 2)
        assert pool.pick(10) == (None, False)
        waiting = [asyncio.create_task(pool.wait(n)) for n in range(10, 16)]
        for _ in range(5):
            await asyncio.sleep(0)
            quick.limiter.release()
        slow.limiter.release()
        homes = await asyncio.gather(*waiting)
        return homes.count(quick), homes.count(slow), all(pool.pick(10 + n)[0] is each for n, each in enumerate(homes))

    assert asyncio.run(run()) == (5, 1, True)


def test_calls_that_fail_at_a_dead_server_let_nobody_in_there():
    clock = Clock()

    async def run():
        urls = ["http://dead/v1", "http://alive/v1"]
        pool = Pool(urls, ClientSettings(notify=lambda _: None, clock=clock), lambda _: AdaptiveLimit(1, clock))
        dead, alive = pool.servers
        for n in range(2):
            await pool.pick(n)[0].limiter.acquire()
        pool.failed(dead, TransientError("gone", "unreachable"), 0.0, trial=False)
        waiting = asyncio.create_task(pool.wait(2))
        await asyncio.sleep(0)
        dead.limiter.release()
        await asyncio.sleep(0)
        assert not waiting.done()
        alive.limiter.release()
        return await waiting is alive

    assert asyncio.run(run())


def test_calls_of_a_passage_that_begin_together_meet_one_server():
    clock = Clock()

    async def run():
        urls = ["http://a/v1", "http://b/v1"]
        pool = Pool(urls, ClientSettings(notify=lambda _: None, clock=clock), lambda _: AdaptiveLimit(1, clock))
        for n in range(2):
            await pool.pick(n)[0].limiter.acquire()
        waiting = [asyncio.create_task(pool.wait(7)) for _ in range(2)]
        await asyncio.sleep(0)
        first, second = pool.servers
        first.limiter.release()
        second.limiter.release()
        found = await asyncio.gather(*waiting)
        return found == [first, None] and pool.pick(7)[0] is first and second.limiter.in_flight == 0

    assert asyncio.run(run())


@pytest.mark.parametrize(("servers", "taken_there"), [(2, False), (1, True)])
def test_a_server_that_pauses_takes_who_begins_only_where_no_other_can(servers, taken_there):
    clock = Clock()

    async def run():
        urls = [f"http://{n}/v1" for n in range(servers)]
        pool = Pool(urls, ClientSettings(notify=lambda _: None, clock=clock), lambda _: AdaptiveLimit(1, clock))
        for n in range(servers):
            await pool.pick(n)[0].limiter.acquire()
        waiting = asyncio.create_task(pool.wait(9))
        await asyncio.sleep(0)
        paused = pool.servers[0]
        pool.failed(paused, TransientError("slow down", "throttled", 20.0), 0.0, trial=False)
        paused.limiter.release()
        await asyncio.sleep(0)
        assert waiting.done() is taken_there
        pool.servers[-1].limiter.release()
        return await waiting is pool.servers[-1]

    assert asyncio.run(run())
