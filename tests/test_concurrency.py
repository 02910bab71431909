"""How many calls a server gets at once: the gate, the pace that moves it, and which server a position goes to."""

from __future__ import annotations

import asyncio

import pytest

from synth.servers.faults import Setback
from synth.servers.pace import FEWEST, START, Gate, Load, Pace, read_load
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


def filled(pace, count=None):
    """The pace with as many calls under way as its limit, or `count`."""
    pace.gate.busy = pace.gate.limit if count is None else count
    pace.gate.filled = True
    return pace


def test_a_page_of_metrics_is_summed_over_engines():
    assert read_load(METRICS) == Load(running=64.0, waiting=7.0, cache=0.75, preemptions=3.0, engines=2)


def test_a_page_that_is_not_of_vllm_says_nothing():
    assert read_load("process_cpu_seconds_total 12.5\n") is None
    assert read_load("<html>vllm</html>") is None


def test_who_continues_a_passage_goes_before_who_begins_one():
    async def run():
        gate, order = Gate(1), []

        async def call(name):
            assert await (gate.line.wait() if name == "new" else gate.enter())
            order.append(name)

        await call("first")
        waiting = [asyncio.create_task(call(name)) for name in ("new", "second call")]
        await asyncio.sleep(0)
        for task in reversed(waiting):
            gate.leave()
            await task
        return order

    assert asyncio.run(run()) == ["first", "second call", "new"]


def test_a_limit_that_moves_up_lets_in_at_once_and_one_that_moves_down_cuts_nobody_off():
    async def run():
        gate = Gate(1)
        await gate.enter()
        waiting = [asyncio.create_task(gate.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        gate.move(3)
        await asyncio.gather(*waiting[:2])
        gate.move(1)
        assert gate.busy == 3
        gate.leave()
        gate.leave()
        await asyncio.sleep(0)
        assert not waiting[2].done()
        gate.leave()
        assert await waiting[2]

    asyncio.run(run())


@pytest.mark.parametrize("begins", [True, False])
def test_a_call_cancelled_in_the_queue_takes_no_room(begins):
    async def run():
        gate = Gate(1)
        await gate.enter()
        gone = asyncio.create_task(gate.line.wait() if begins else gate.enter())
        await asyncio.sleep(0)
        gate.leave()  # room is given to it, and it is cancelled before it runs
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert gate.busy == 0

    asyncio.run(run())


def test_those_who_wait_for_a_dead_server_are_sent_off():
    async def run():
        gate = Gate(1)
        await gate.enter()
        waiting = [asyncio.create_task(each) for each in (gate.enter(), gate.line.wait())]
        await asyncio.sleep(0)
        gate.turn_away()
        assert await asyncio.gather(*waiting) == [False, None]

    asyncio.run(run())


def test_the_limit_doubles_until_the_server_is_full_and_settles_just_above_it():
    pace, limits = Pace(1024, Clock()), []
    for _ in range(8):
        filled(pace)
        sent = pace.gate.busy
        pace.see(Load(running=min(sent, 64), waiting=max(0, sent - 64)))
        limits.append(pace.gate.limit)
    assert limits[:3] == [2 * START, 4 * START, 8 * START]
    assert all(64 < limit <= 70 for limit in limits[4:])


def test_a_surplus_that_is_still_draining_is_taken_off_once():
    pace = Pace(1024, Clock())
    for sent, waiting in ((128, 100), (110, 46), (90, 26), (75, 11)):
        filled(pace, sent).see(Load(running=64, waiting=waiting))
    assert pace.gate.limit == 68


def test_a_limit_that_is_not_in_the_way_is_not_raised():
    pace = Pace(1024, Clock())
    pace.gate.filled = False
    pace.see(Load(running=3, waiting=0))
    assert pace.gate.limit == START


def test_a_full_cache_stops_the_rise_and_preemptions_cut():
    pace = Pace(1024, Clock())
    filled(pace).see(Load(running=START, waiting=0, cache=0.95))
    assert pace.gate.limit == START
    filled(pace).see(Load(running=START, waiting=0, cache=0.99, preemptions=2))
    assert FEWEST <= pace.gate.limit < START


def test_without_metrics_answers_raise_the_limit_and_refusals_cut_it_once_a_second():
    clock = Clock()
    pace = Pace(256, clock)
    for _ in range(START):
        filled(pace).answered()
    assert pace.gate.limit == 2 * START
    pace.refused()
    pace.refused()
    assert pace.gate.limit == int(2 * START * 0.7)
    before = pace.gate.limit
    for _ in range(before + 1):
        filled(pace).answered()
    assert pace.gate.limit == before + 1
    clock.moment += 2
    pace.refused()
    assert pace.gate.limit < before


def test_no_limit_moves_where_the_job_names_one():
    pace = Pace(None, Clock())
    pace.refused()
    pace.see(Load(running=1, waiting=500))
    assert pace.gate.limit is None


def test_new_positions_go_to_the_server_with_the_least_to_do_and_stay_there():
    clock = Clock()
    pool = Pool(["http://a/v1", "http://b/v1"], ClientSettings(notify=lambda _: None), clock, lambda _: Pace(64, clock))
    slow, quick = pool.endpoints
    slow.pace.gate.busy = 12
    homes = [pool.pick(n)[0] for n in range(20)]
    assert set(map(id, homes)) == {id(quick)}
    slow.pace.gate.busy, quick.pace.gate.busy = 0, 12
    assert [pool.pick(n)[0] for n in range(20)] == homes
    assert pool.pick(20)[0] is slow


def test_positions_of_a_dead_server_move_and_the_others_stay():
    clock = Clock()
    pool = Pool(["http://a/v1", "http://b/v1"], ClientSettings(notify=lambda _: None), clock, lambda _: Pace(64, clock))
    homes = [pool.pick(n)[0] for n in range(40)]
    dead, alive = pool.endpoints
    assert 0 < homes.count(dead) < 40
    pool.failed(dead, Setback("gone", "unreachable"), 0.0, trial=False)
    assert all(pool.pick(n)[0] is alive for n in range(40))


def test_who_begins_waits_for_no_server_of_its_own_so_a_slow_one_keeps_no_queue():
    clock = Clock()

    async def run():
        urls = ["http://quick/v1", "http://slow/v1"]
        pool = Pool(urls, ClientSettings(notify=lambda _: None), clock, lambda _: Pace(2, clock))
        quick, slow = pool.endpoints
        for n in range(4):
            await pool.pick(n)[0].pace.gate.enter()
        assert (quick.pace.gate.busy, slow.pace.gate.busy) == (2, 2)
        assert pool.pick(10) == (None, False)
        waiting = [asyncio.create_task(pool.wait(n)) for n in range(10, 16)]
        for _ in range(5):
            await asyncio.sleep(0)
            quick.pace.gate.leave()
        slow.pace.gate.leave()
        homes = await asyncio.gather(*waiting)
        return homes.count(quick), homes.count(slow), all(pool.pick(10 + n)[0] is each for n, each in enumerate(homes))

    assert asyncio.run(run()) == (5, 1, True)


def test_calls_that_fail_at_a_dead_server_let_nobody_in_there():
    clock = Clock()

    async def run():
        urls = ["http://dead/v1", "http://alive/v1"]
        pool = Pool(urls, ClientSettings(notify=lambda _: None), clock, lambda _: Pace(1, clock))
        dead, alive = pool.endpoints
        for n in range(2):
            await pool.pick(n)[0].pace.gate.enter()
        pool.failed(dead, Setback("gone", "unreachable"), 0.0, trial=False)
        waiting = asyncio.create_task(pool.wait(2))
        await asyncio.sleep(0)
        dead.pace.gate.leave()
        await asyncio.sleep(0)
        assert not waiting.done()
        alive.pace.gate.leave()
        return await waiting is alive

    assert asyncio.run(run())


def test_calls_of_a_passage_that_begin_together_meet_one_server():
    clock = Clock()

    async def run():
        urls = ["http://a/v1", "http://b/v1"]
        pool = Pool(urls, ClientSettings(notify=lambda _: None), clock, lambda _: Pace(1, clock))
        for n in range(2):
            await pool.pick(n)[0].pace.gate.enter()
        waiting = [asyncio.create_task(pool.wait(7)) for _ in range(2)]
        await asyncio.sleep(0)
        first, second = pool.endpoints
        first.pace.gate.leave()
        second.pace.gate.leave()
        found = await asyncio.gather(*waiting)
        return found == [first, None] and pool.pick(7)[0] is first and second.pace.gate.busy == 0

    assert asyncio.run(run())


@pytest.mark.parametrize(("servers", "taken_there"), [(2, False), (1, True)])
def test_a_server_that_pauses_takes_who_begins_only_where_no_other_can(servers, taken_there):
    clock = Clock()

    async def run():
        urls = [f"http://{n}/v1" for n in range(servers)]
        pool = Pool(urls, ClientSettings(notify=lambda _: None), clock, lambda _: Pace(1, clock))
        for n in range(servers):
            await pool.pick(n)[0].pace.gate.enter()
        waiting = asyncio.create_task(pool.wait(9))
        await asyncio.sleep(0)
        paused = pool.endpoints[0]
        pool.failed(paused, Setback("slow down", "throttled", 20.0), 0.0, trial=False)
        paused.pace.gate.leave()
        await asyncio.sleep(0)
        assert waiting.done() is taken_there
        pool.endpoints[-1].pace.gate.leave()
        return await waiting is pool.endpoints[-1]

    assert asyncio.run(run())
