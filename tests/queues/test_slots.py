"""Slots: never more are taken than there are; the highest rank goes first, and of equal ranks who waits longest."""

import os
import random
import threading
import traceback

import pytest

from engine.threads.slots import PATIENCE, Claimant, Slots


class Queue:
    """A claimant that remembers that it was called."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.called = 0

    def slot_free(self) -> None:
        self.called += 1

    def __repr__(self) -> str:
        return f"<{self.name} called {self.called}>"


def queues(count: int) -> list[Queue]:
    return [Queue(f"queue {index}") for index in range(count)]


class Eager(Queue):
    """A claimant that claims again as soon as it is called, as a queue does, for an op of its own."""

    def __init__(self, slots: Slots, name: str, need: int, rank: int) -> None:
        super().__init__(name)
        self.slots, self.need, self.rank = slots, need, rank
        self.held = 0
        self.order: list[str] = []

    def slot_free(self) -> None:
        super().slot_free()
        self.claim()

    def claim(self) -> bool:
        granted = self.slots.claim(self, self.need, self.need, self.rank)
        if granted:
            self.held += granted
            self.order.append(self.name)
        return bool(granted)

    def release(self) -> None:
        held, self.held = self.held, 0
        self.slots.release(held)


def eager(slots: Slots, order: list[str], name: str, need: int = 1, rank: int = 0) -> Eager:
    claimant = Eager(slots, name, need, rank)
    claimant.order = order
    return claimant


# Counting


@pytest.mark.parametrize("seed", range(40))
def test_any_sequence_of_claims_keeps_to_the_number_of_slots(seed: int) -> None:
    source = random.Random(seed)
    capacity = source.randrange(1, 7)
    slots = Slots(capacity)
    claimants = queues(5)
    held: list[int] = []
    waiting: set[Queue] = set()
    for _ in range(400):
        claimant = source.choice(claimants)
        action = source.randrange(5)
        if action < 2:
            need = source.randrange(1, capacity + 3)
            most = source.choice((None, need, need + source.randrange(3)))
            granted = slots.claim(claimant, need, most, source.choice((0, 0, 1, 5)))
            assert granted in (0, *range(min(need, capacity), max(need, most or 0) + 1))
            if granted:
                held.append(granted)
                waiting.discard(claimant)
            else:
                waiting.add(claimant)
        elif action < 4 and held:
            slots.release(held.pop(source.randrange(len(held))))
        else:
            slots.leave(claimant)
            waiting.discard(claimant)
        slots.check()
        assert slots.taken == sum(held) <= capacity
        assert {each for each in claimants if slots.waits(each)} == waiting


def test_all_that_wait_get_their_slots_though_nothing_but_calls_moves_them() -> None:
    for seed in range(40):
        source = random.Random(seed)
        slots = Slots(source.randrange(1, 5))
        order: list[str] = []
        claimants = [
            eager(slots, order, str(index), source.randrange(1, 6), source.choice((0, 0, 3))) for index in range(8)
        ]
        source.shuffle(claimants)
        for claimant in claimants:
            claimant.claim()
        while holding := [claimant for claimant in claimants if claimant.held]:
            assert slots.taken <= slots.capacity
            source.choice(holding).release()
            slots.check()
        assert sorted(order) == sorted(claimant.name for claimant in claimants)
        assert slots.taken == 0


def test_more_slots_than_needed_are_given_where_no_other_queue_waits() -> None:
    slots = Slots(4)
    alone, other = queues(2)
    assert slots.claim(alone, 1, 3) == 3
    assert slots.claim(other, 2, 2) == 0
    slots.release(3)
    assert other.called == 1
    assert slots.claim(alone, 1, 4) == 0, "it overtook the queue whose turn it is"
    assert slots.claim(other, 2, 3) == 2, "it took what the queue behind it waits for"
    assert slots.claim(alone, 1, 4) == 2


def test_an_op_that_needs_more_slots_than_there_are_gets_all_of_them() -> None:
    slots = Slots(2)
    (queue,) = queues(1)
    assert slots.claim(queue, 8, 8) == 2
    assert slots.claim(queue, 1) == 0


# Whose turn it is


def test_who_waits_longest_goes_first() -> None:
    slots = Slots(1)
    order: list[str] = []
    first = eager(slots, order, "first")
    claimants = [first, *(eager(slots, order, str(index)) for index in range(5))]
    for claimant in claimants:
        claimant.claim()
    for claimant in claimants:
        claimant.release()
    assert order == ["first", *"01234"]


def test_the_highest_rank_goes_first() -> None:
    slots = Slots(1)
    order: list[str] = []
    ranks = {"first": 0, "low": 0, "high": 9, "middle": 5, "high too": 9}
    claimants = {name: eager(slots, order, name, rank=rank) for name, rank in ranks.items()}
    for claimant in claimants.values():
        claimant.claim()
    while order[-1] != "low":
        claimants[order[-1]].release()
    assert order == ["first", "high", "high too", "middle", "low"]


def test_a_queue_that_waits_may_change_its_rank() -> None:
    slots = Slots(1)
    running, low, raised = queues(3)
    assert slots.claim(running)
    for queue in (low, raised):
        assert not slots.claim(queue)
    assert not slots.claim(raised, rank=3)
    slots.release(1)
    assert (low.called, raised.called) == (0, 1)


def test_a_stream_of_small_needs_does_not_keep_a_large_one_waiting() -> None:
    slots = Slots(4)
    order: list[str] = []
    small = [eager(slots, order, f"small {index}") for index in range(4)]
    large = eager(slots, order, "large", need=4)
    for claimant in small:
        claimant.claim()
    assert not large.claim()
    late = eager(slots, order, "late")
    small[0].release()
    assert not late.claim(), "a slot that is free was taken before the queue that waits for several"
    for claimant in small[1:]:
        claimant.release()
    assert order[-1] == "large"
    assert slots.waits(late)
    large.release()
    assert order[-1] == "late"


@pytest.mark.parametrize("need", [1, 3])
def test_a_stream_of_higher_ranks_passes_a_queue_so_often_only(need: int) -> None:
    slots = Slots(3)
    order: list[str] = []
    running = eager(slots, order, "running", need=3)
    low = eager(slots, order, "low", need=need)
    running.claim()
    low.claim()
    high = [eager(slots, order, f"high {index}", need=3, rank=9) for index in range(2)]
    high[0].claim()
    running.release()
    for turn in range(3 * PATIENCE):
        if low.held:
            break
        high[1 - turn % 2].claim()
        high[turn % 2].release()
    assert order.index("low") == 1 + PATIENCE


def test_a_stream_of_newcomers_of_a_higher_rank_passes_a_queue_so_often_only() -> None:
    slots = Slots(2)
    holder, low, high = queues(3)
    assert slots.claim(holder)
    assert not slots.claim(low, 2)
    passed = 0
    while slots.claim(high, 1, 1, 9):
        passed += 1
        slots.release(1)
    assert passed == PATIENCE
    slots.release(1)
    assert low.called >= 1
    assert slots.claim(low, 2) == 2


def test_turns_are_taken_by_queues_of_one_rank_that_always_want_more() -> None:
    slots = Slots(1)
    order: list[str] = []
    claimants = [eager(slots, order, str(index)) for index in range(3)]
    for claimant in claimants:
        claimant.claim()
    for turn in range(12):
        claimant = claimants[turn % 3]
        assert claimant.held
        held, claimant.held = claimant.held, 0
        assert not claimant.claim(), "it went on before those that wait"
        slots.release(held)
    assert order[:12] == list("012" * 4)


# Being called


def test_a_queue_is_called_when_its_turn_has_come_and_not_before() -> None:
    slots = Slots(2)
    running, waiting = queues(2)
    assert slots.claim(running, 2, 2) == 2
    assert not slots.claim(waiting, 2)
    slots.release(1)
    assert waiting.called == 0
    slots.release(1)
    assert waiting.called == 1


def test_a_queue_that_took_its_turn_passes_the_rest_on() -> None:
    slots = Slots(2)
    running, first, second = queues(3)
    assert slots.claim(running, 2, 2) == 2
    for queue in (first, second):
        assert not slots.claim(queue)
    slots.release(2)
    assert (first.called, second.called) == (1, 0)
    assert slots.claim(first)
    assert second.called == 1


def test_a_queue_whose_rank_fell_when_its_turn_came_passes_it_on() -> None:
    slots = Slots(1)
    running, first, second = queues(3)
    slots.claim(running)
    assert not slots.claim(first, rank=2)
    assert not slots.claim(second, rank=1)
    slots.release(1)
    assert (first.called, second.called) == (1, 0)
    assert not slots.claim(first, rank=0)
    assert second.called == 1
    assert slots.claim(second, rank=1)


def test_a_queue_that_leaves_passes_its_turn_on() -> None:
    slots = Slots(2)
    running, large, small = queues(3)
    assert slots.claim(running)
    assert not slots.claim(large, 2)
    assert not slots.claim(small)
    slots.leave(large)
    assert small.called == 1
    slots.leave(large)
    slots.leave(running)
    assert small.called == 1
    assert slots.claim(small)


def test_one_that_waits_for_a_slot_in_a_block_gets_it() -> None:
    slots = Slots(1)
    inside: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def work() -> None:
        for _ in range(50):
            with slots.held():
                with lock:
                    inside.append(1)
                    most.append(len(inside))
                with lock:
                    inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 200
    assert set(most) == {1}
    assert slots.taken == 0
    slots.check()


def test_a_slot_of_a_block_is_given_back_when_the_block_fails() -> None:
    slots = Slots(1)
    with pytest.raises(KeyError), slots.held():
        raise KeyError
    with slots.held():
        assert slots.taken == 1


def test_a_thread_that_is_interrupted_while_it_waits_leaves_no_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = Slots(1)
    holder, other = queues(2)
    assert slots.claim(holder)

    class Interrupted:
        def acquire(self) -> None:
            raise KeyboardInterrupt

        def release(self) -> None:
            pass

    monkeypatch.setattr("engine.threads.slots.threading.Semaphore", lambda _: Interrupted())
    with pytest.raises(KeyboardInterrupt), slots.held():
        pass
    assert not slots.claim(other)
    slots.release(1)
    assert other.called == 1
    assert slots.claim(other)


# More and fewer slots


def test_the_number_of_slots_is_asked_each_time() -> None:
    capacity = [1]
    slots = Slots(lambda: capacity[0])
    running, waiting = queues(2)
    assert slots.claim(running)
    assert not slots.claim(waiting)
    capacity[0] = 3
    assert slots.capacity == 3
    assert slots.claim(waiting, 1, 2) == 2
    capacity[0] = 1
    assert not slots.claim(running)
    slots.release(1)
    slots.release(1)
    assert running.called == 0, "more are taken than there are now"
    slots.release(1)
    assert running.called == 1
    slots.check()


def test_a_need_that_no_capacity_meets_any_more_is_cut_to_what_there_is() -> None:
    capacity = [4]
    slots = Slots(lambda: capacity[0])
    running, waiting = queues(2)
    assert slots.claim(running, 2, 2) == 2
    assert not slots.claim(waiting, 4)
    capacity[0] = 2
    slots.release(2)
    assert waiting.called == 1
    assert slots.claim(waiting, 4) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_in_a_forked_child_all_slots_are_free() -> None:
    slots = Slots(1)
    running, waiting = queues(2)
    assert slots.claim(running)
    assert not slots.claim(waiting)
    child = os.fork()
    if not child:
        code = 1
        try:
            assert slots.taken == 0
            assert not slots.waits(waiting)
            assert slots.claim(waiting)
            code = 0
        except AssertionError:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert slots.taken == 1
    assert slots.waits(waiting)


def test_claimants_are_told_apart_by_identity() -> None:
    slots = Slots(1)
    first: Claimant
    first, second = queues(2)
    assert slots.claim(first)
    assert not slots.waits(first)
    assert not slots.claim(second)
    assert slots.waits(second)
