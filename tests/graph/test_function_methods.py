"""`engine.function` and objects: methods, what is held of their instances, and attributes that change."""

import copy
import functools
import gc
import inspect
import logging
import pickle
import threading
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest

import engine
from engine.graph import attributes

ops: Any = engine.ops

X = np.arange(3.0)


def value(handle: Any) -> Any:
    return handle.result().tolist()


class Model:
    bias = 0.0
    table: ClassVar[dict[str, float]] = {"shift": 0.0}

    def __init__(self, w: Any = 2.0) -> None:
        self.w = w

    def helper(self, x: Any) -> Any:
        return x + self.bias + self.table["shift"]

    @engine.function
    def scaled(self, x: Any, times: int = 1) -> Any:
        """Scale."""
        return self.helper(x * self.w * times)

    @classmethod
    @engine.function
    def of_class(cls, x: Any) -> Any:
        return x + cls.bias

    @staticmethod
    @engine.function
    def of_none(x: Any) -> Any:
        return x + 1

    @property
    @engine.function
    def norm(self) -> Any:
        return ops.sum(ops.asarray(self.w) * ops.asarray(self.w))


class Child(Model):
    @engine.function
    def scaled(self, x: Any, times: int = 1) -> Any:
        return super().scaled(x, times) + 100


# ---------------------------------------------------------------------------------------------------------------------
# Methods


def test_each_instance_has_traces_and_statistics_of_its_own(mode: engine.ExecutionMode) -> None:
    one, two = Model(2.0), Model(3.0)
    before = Model.scaled.statistics()
    for _ in range(3):
        assert value(one.scaled(X)) == [0, 2, 4]
    assert value(two.scaled(X, times=2)) == [0, 6, 12]
    assert (one.scaled.statistics().calls, one.scaled.statistics().traces) == (3, 1)
    assert (two.scaled.statistics().calls, two.scaled.statistics().traces) == (1, 1)
    after = Model.scaled.statistics()
    assert (after.calls - before.calls, after.traces - before.traces) == (4, 2)


def test_arguments_of_methods_are_bound_by_their_signature(mode: engine.ExecutionMode) -> None:
    model = Model()
    calls: list[Callable[[], Any]] = [
        lambda: model.scaled(X),
        lambda: model.scaled(X, 1),
        lambda: model.scaled(times=1, x=X),
        lambda: Model.scaled(model, X),
        lambda: Model.scaled(model, x=X, times=1),
    ]
    for call in calls:
        assert value(call()) == [0, 2, 4]
    assert model.scaled.statistics().traces == 1
    with pytest.raises(TypeError, match=r"engine.function 'scaled': missing a required argument: 'x'"):
        model.scaled()
    with pytest.raises(TypeError, match=r"engine.function 'scaled': got an unexpected keyword argument 'y'"):
        model.scaled(X, y=1)


def test_an_input_signature_of_a_method_leaves_out_the_instance(mode: engine.ExecutionMode) -> None:
    class Summed:
        w = 2.0

        @engine.function(input_signature=[engine.ShapeDtype((None,), np.dtype("f8"))])
        def total(self, x: Any) -> Any:
            return ops.sum(x) * self.w

    summed = Summed()
    for length in (1, 5):
        assert value(summed.total(np.ones(length))) == 2 * length
        assert value(Summed.total(summed, np.ones(length))) == 2 * length
    assert summed.total.statistics().traces == 1
    summed.w = 3.0
    assert value(summed.total(np.ones(2))) == 6


def test_all_kinds_of_methods_work(mode: engine.ExecutionMode) -> None:
    for cls in (Model, Child):
        model = cls()
        for _ in range(2):
            assert value(cls.of_class(X)) == value(model.of_class(X)) == X.tolist()
            assert value(cls.of_none(X)) == value(model.of_none(X)) == [1, 2, 3]
            assert value(model.norm) == 4
        model.w = 3.0
        assert value(model.norm) == 9


def test_super_reaches_the_method_of_the_parent(mode: engine.ExecutionMode) -> None:
    child, parent = Child(2.0), Model(2.0)
    for _ in range(2):
        assert value(child.scaled(X)) == [100, 102, 104]
        assert value(parent.scaled(X)) == [0, 2, 4]
    child.w = 3.0
    assert value(child.scaled(X)) == [100, 103, 106]
    child.bias = 1.0
    assert value(child.scaled(X)) == [101, 104, 107]


def test_a_bound_method_looks_like_one(mode: engine.ExecutionMode) -> None:
    model = Model()
    method = model.scaled
    assert method == model.scaled
    assert hash(method) == hash(model.scaled)
    assert method != Model().scaled
    assert method.__self__ is model
    assert method.__func__ is Model.scaled
    assert (method.__name__, method.__doc__) == ("scaled", "Scale.")
    assert str(inspect.signature(method)) == "(x: Any, times: int = 1) -> Any"
    assert repr(method).startswith("<bound engine.function 'Model.scaled' of <")
    assert not hasattr(method, "other")


def test_models_with_functions_are_copied_and_pickled(mode: engine.ExecutionMode) -> None:
    model = Stored(2.0)
    value(model.step(X))
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.w = 5.0
        assert value(other.scaled(X)) == [0, 5, 10]
        assert value(model.step(X)) == [0, 2, 4]
    assert pickle.loads(pickle.dumps(Model.scaled)) is Model.scaled


class Stored(Model):
    """A function is stored as an attribute of the instance."""

    def __init__(self, w: float) -> None:
        super().__init__(w)
        self.step = self.scaled


STORED: dict[str, Callable[[Any], Any]] = {
    "method": lambda model: engine.function(model.helper_times),
    "traced method": lambda model: engine.function(model.scaled),
    "partial": lambda model: engine.function(functools.partial(type(model).helper_times, model)),
    "partial of traced": lambda model: functools.partial(Model.scaled, model),
    "callable": lambda model: engine.function(model),
}


class Held(Model):
    def helper_times(self, x: Any) -> Any:
        return x * self.w

    __call__ = helper_times


@pytest.mark.parametrize("kind", STORED)
def test_functions_stored_as_attributes_follow_their_instance(mode: engine.ExecutionMode, kind: str) -> None:
    held: Any = Held(2.0)
    held.step = STORED[kind](held)
    for _ in range(2):
        assert value(held.step(X)) == [0, 2, 4]
    held.w = 3.0
    assert value(held.step(X)) == [0, 3, 6]
    gone = weakref.ref(held)
    del held
    gc.collect()
    assert gone() is None


class Pair(NamedTuple):
    w: Any
    b: float

    @engine.function
    def affine(self, x: Any) -> Any:
        return x * self.w + self.b


def test_the_arrays_of_a_namedtuple_are_arguments(mode: engine.ExecutionMode) -> None:
    for scale in (2.0, 3.0):
        assert value(Pair(np.full(3, scale), 1.0).affine(X)) == (X * scale + 1).tolist()
    assert Pair.affine.statistics().traces == 1


# ---------------------------------------------------------------------------------------------------------------------
# What is held


class Slotted:
    __slots__ = ("__private", "w")

    def __init__(self, w: Any) -> None:
        self.w = w
        self.__private = 1.0

    @engine.function
    def scaled(self, x: Any) -> Any:
        return x * self.w * self.__private

    def change(self) -> None:
        self.__private = 10.0


class WeakSlotted(Slotted):
    __slots__ = ("__weakref__",)


class DictSlotted(Slotted):
    pass


@dataclass
class Data:
    w: Any = 2.0

    @engine.function
    def scaled(self, x: Any) -> Any:
        return x * self.w


@dataclass(frozen=True)
class FrozenData:
    w: Any = 2.0

    @engine.function
    def scaled(self, x: Any) -> Any:
        return x * self.w


@dataclass(slots=True)
class SlottedData:
    w: Any = 2.0

    @engine.function
    def scaled(self, x: Any) -> Any:
        return x * self.w


class Equal(Model):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    def __hash__(self) -> int:
        return 1


class Named(str):
    w: Any

    def __new__(cls, w: Any) -> Any:
        self = super().__new__(cls, "name")
        self.w = w
        return self

    @engine.function
    def scaled(self, x: Any) -> Any:
        return x * self.w


class Items(list[Any]):
    def __init__(self, w: Any) -> None:
        self.w = w
        self.append(w)

    @engine.function
    def scaled(self, x: Any) -> Any:
        return x * self.w * 0 + x * self[0]


CLASSES = [Model, Child, Data, Slotted, WeakSlotted, DictSlotted, SlottedData, Equal, Named]


@pytest.mark.parametrize("cls", [*CLASSES, FrozenData, Items])
def test_the_old_result_is_not_returned_after_a_change(mode: engine.ExecutionMode, cls: type) -> None:
    for make in (float, lambda number: np.full(3, number), lambda number: ops.full(3, number)):
        offset = 100.0 if cls is Child else 0.0
        one, two = cls(make(2.0)), cls(make(7.0))
        for number in (2.0, 3.0, 3.0, 2.0):
            set_w(one, make(number))
            assert value(one.scaled(X)) == (X * number + offset).tolist()
            assert value(two.scaled(X)) == (X * 7 + offset).tolist()


def set_w(model: Any, w: Any) -> None:
    if isinstance(model, list):
        model[0] = w
    else:
        object.__setattr__(model, "w", w)


@pytest.mark.parametrize("cls", [Slotted, WeakSlotted, DictSlotted])
def test_private_slots_are_looked_at(mode: engine.ExecutionMode, cls: type) -> None:
    one = cls(2.0)
    assert value(one.scaled(X)) == [0, 2, 4]
    one.change()
    assert value(one.scaled(X)) == [0, 20, 40]


@engine.function
def with_object(given: Any, x: Any) -> Any:
    given = given["models"][0] if isinstance(given, dict) else given
    if callable(given):
        return given(x)
    return x * (given.w.w if hasattr(given.w, "w") else given.w), given


USES: dict[str, Callable[[Any], Any]] = {
    "method": lambda model: model.scaled(X[:1]),
    "method of the class": lambda model: type(model).scaled(model, X[:1]),
    "argument": lambda model: with_object(model, X[:1]),
    "method as argument": lambda model: with_object(model.scaled, X[:1]),
    "nested argument": lambda model: with_object({"models": [model]}, X[:1]),
    "attribute": lambda model: with_object(Model(model), X[:1]),
}


@pytest.mark.sweep
@pytest.mark.parametrize("cls", [Model, Child, Data, WeakSlotted, DictSlotted])
@pytest.mark.parametrize("use", USES)
def test_instances_are_collected_with_all_that_was_traced(mode: engine.ExecutionMode, cls: type[Any], use: str) -> None:
    alive: list[Any] = []
    for _ in range(50):
        model = cls(ops.ones(1))
        if hasattr(model, "__dict__"):
            model.child = SimpleNamespace(parent=model)
        USES[use](model)
        alive += [weakref.ref(model), weakref.ref(model.w._cell)]
    del model
    engine.wait()
    gc.collect()
    assert sum(each() is not None for each in alive) == 0


def test_of_classes_without_weak_references_few_instances_are_held(
    mode: engine.ExecutionMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.graph.function.SIGNATURES", 4)
    cells = []
    for number in range(9):
        w = ops.full(3, float(number))
        cells.append(weakref.ref(w._cell))
        assert value(Slotted(w).scaled(X)) == (X * number).tolist()
    del w
    gc.collect()
    assert sum(each() is not None for each in cells) <= 4


def test_an_instance_that_is_returned_is_the_one_of_the_call(mode: engine.ExecutionMode) -> None:
    @engine.function
    def same(model: Any, x: Any) -> Any:
        return model, model.w, [x + 1, {"model": model}]

    for _ in range(2):
        for model in (Model(Model(1.0)), Model(Model(1.0))):
            for _ in range(2):
                first, second, (third, fourth) = same(model, X)
                assert first is fourth["model"] is model
                assert second is model.w
                assert value(third) == [1, 2, 3]


# ---------------------------------------------------------------------------------------------------------------------
# What changes


class Kind(Enum):
    ONE = 2.0
    TWO = 3.0


class Readable:
    """Has memory of its own that NumPy can read."""

    def __init__(self, number: float) -> None:
        self.hidden = {"number": np.full(3, number)}

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.hidden["number"]


def make_both(number: float) -> Any:
    model = Model(number)
    model.other = model  # type: ignore[attr-defined]
    return model


# How an attribute holds a number, and how the number is found in it.
HOLDERS: dict[str, tuple[Callable[[float], Any], Callable[[Any], Any]]] = {
    "int": (int, lambda w: w),
    "float": (float, lambda w: w),
    "complex": (complex, lambda w: w.real),
    "str": (str, float),
    "bytes": (lambda number: str(number).encode(), float),
    "bytearray": (lambda number: bytearray(str(number).encode()), lambda w: float(bytes(w))),
    "None": (lambda number: None if number == 2 else True, lambda w: 2.0 if w is None else 3.0),
    "numpy scalar": (np.float32, float),
    "array": (lambda number: np.full(3, number), lambda w: w),
    "array that is transposed": (lambda number: np.full((3, 3), number).T[:, ::-1], lambda w: w[0]),
    "array without dimensions": (np.array, lambda w: w),
    "large array": (lambda number: np.full(100_000, number), lambda w: w[:3]),
    "large array of bytes": (lambda number: np.full(100_001, int(number), "i1"), lambda w: w[-3:]),
    "array of strings": (lambda number: np.full(3, str(number)), lambda w: float(w[0])),
    "large array of strings": (lambda number: np.full(30_001, str(number), "U3"), lambda w: float(w[0])),
    "array of texts": (lambda number: np.full(3, str(number), np.dtypes.StringDType()), lambda w: float(w[0])),
    "array of objects": (lambda number: np.array([[number], None], object), lambda w: w[0][0]),
    "masked array": (lambda number: np.ma.array([number, 5.0], mask=[False, True]), lambda w: float(w[0])),
    "handle": (lambda number: ops.full(3, number), lambda w: w),
    "list": (lambda number: [[number]], lambda w: w[0][0]),
    "list of handles": (lambda number: [ops.full(3, number)], lambda w: w[0]),
    "tuple": (lambda number: (number, "a"), lambda w: w[0]),
    "dict": (lambda number: {"a": {"b": number}}, lambda w: w["a"]["b"]),
    "ordered dict": (lambda number: OrderedDict(a=number), lambda w: w["a"]),
    "user dict": (lambda number: UserDict(a=number), lambda w: w["a"]),
    "set": (lambda number: {number}, max),
    "deque": (lambda number: deque([number]), lambda w: w[0]),
    "namespace": (lambda number: SimpleNamespace(a=number), lambda w: w.a),
    "object": (Model, lambda w: w.w),
    "object with a method": (Model, lambda w: w.scaled(np.ones(3))),
    "object with slots": (SlottedData, lambda w: w.w),
    "frozen data": (FrozenData, lambda w: w.w),
    "objects in containers": (lambda number: {"a": [Model(number)]}, lambda w: w["a"][0].w),
    "itself": (make_both, lambda w: w.other.other.w),
    "weak reference": (lambda number: weakref.ref(KEEP.setdefault(number, Model(number))), lambda w: w().w),
    "enumeration": (Kind, lambda w: w.value),
    "class": (lambda number: type("Made", (), {"w": number}), lambda w: w.w),
    "function": (lambda number: lambda *args: args[-1] * number, lambda w: w(1.0)),
    "bound method": (lambda number: Model(number).scaled, lambda w: w(np.ones(3))),
    "plain bound method": (lambda number: SlottedMethod(number).get, lambda w: w()),
    # Of a class it is a method from Python 3.14 on, and is given the instance too.
    "partial": (lambda number: functools.partial(lambda held, *args: max(held), [number]), lambda w: w()),
    "what NumPy reads": (Readable, lambda w: np.asarray(w)),
    "subclass of a number": (type("Number", (float,), {}), float),
    "subclass of a text": (type("Text", (str,), {}), float),
}

KEEP: dict[float, Model] = {}


class SlottedMethod(SlottedData):
    def get(self) -> Any:
        return self.w


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore:functools.partial will be a method:FutureWarning")  # from Python 3.13 on
@pytest.mark.parametrize("kind", HOLDERS)
@pytest.mark.parametrize("place", ["instance", "class", "argument"])
def test_every_attribute_that_is_replaced_is_seen(mode: engine.ExecutionMode, kind: str, place: str) -> None:
    make, read = HOLDERS[kind]

    class Holder:
        w: Any = None

        @engine.function
        def scaled(self, x: Any) -> Any:
            return x * read(self.w)

    holder = Holder()
    target: Any = Holder if place == "class" else holder
    function = engine.function(lambda holder, x: x * read(holder.w))
    call: Callable[[Any], Any] = holder.scaled if place != "argument" else lambda x: function(holder, x)
    for number in (2.0, 3.0, 3.0, 2.0):
        target.w = make(number)
        for _ in range(2):
            assert value(call(X)) == (X * number).tolist()
    target.w = make(2.0)
    value(call(X))
    before = (holder.scaled if place != "argument" else function).statistics().traces
    for _ in range(3):
        call(X)
    assert (holder.scaled if place != "argument" else function).statistics().traces == before


def write(array: Any) -> None:
    array[...] = 3.0


# How an attribute that holds 2 is made to hold 3, without being replaced.
CHANGES: dict[str, tuple[Callable[[float], Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "array": (*HOLDERS["array"], write),
    "view of an array": (lambda number: np.full((4, 6), number)[1:, ::2], lambda w: w[:, 0], lambda w: write(w.base)),
    "read-only view": (lambda number: read_only(np.full(3, number)), lambda w: w, lambda w: write(w.base)),
    "large array": (*HOLDERS["large array"], write),
    "one byte": (lambda number: np.full(100_001, int(number), "i1"), lambda w: w[-1], lambda w: write(w[-1:])),
    "array in a list": (lambda number: [np.full(3, number)], lambda w: w[0], lambda w: write(w[0])),
    "array without dimensions": (*HOLDERS["array without dimensions"], write),
    "array of objects": (*HOLDERS["array of objects"], lambda w: w[0].__setitem__(0, 3.0)),
    "masked array": (*HOLDERS["masked array"], lambda w: w.__setitem__(0, 3.0)),
    "handle": (*HOLDERS["handle"], lambda w: w.__setitem__(slice(None), 3.0)),
    "list": (*HOLDERS["list"], lambda w: w[0].__setitem__(0, 3.0)),
    "dict": (*HOLDERS["dict"], lambda w: w["a"].update(b=3.0)),
    "user dict": (*HOLDERS["user dict"], lambda w: w.update(a=3.0)),
    "set": (*HOLDERS["set"], lambda w: w.add(3.0)),
    "deque": (*HOLDERS["deque"], lambda w: w.appendleft(3.0)),
    "bytearray": (*HOLDERS["bytearray"], lambda w: w.__setitem__(0, ord("3"))),
    "namespace": (*HOLDERS["namespace"], lambda w: setattr(w, "a", 3.0)),
    "object": (*HOLDERS["object"], lambda w: setattr(w, "w", 3.0)),
    "object with a method": (*HOLDERS["object with a method"], lambda w: setattr(w, "w", 3.0)),
    "object with slots": (*HOLDERS["object with slots"], lambda w: setattr(w, "w", 3.0)),
    "itself": (*HOLDERS["itself"], lambda w: setattr(w, "w", 3.0)),
    "weak reference": (*HOLDERS["weak reference"], lambda w: setattr(w(), "w", 3.0)),
    "class": (lambda number: type("Made", (), {"w": number})(), lambda w: w.w, lambda w: setattr(type(w), "w", 3.0)),
    "function of a class": (
        lambda number: type("Made", (), {"get": lambda self: number})(),
        lambda w: w.get(),
        lambda w: setattr(type(w), "get", lambda self: 3.0),
    ),
    "bound method": (*HOLDERS["bound method"], lambda w: setattr(w.__self__, "w", 3.0)),
    "plain bound method": (*HOLDERS["plain bound method"], lambda w: setattr(w.__self__, "w", 3.0)),
    "partial": (*HOLDERS["partial"], lambda w: w.args[0].append(3.0)),
    "what NumPy reads": (*HOLDERS["what NumPy reads"], lambda w: write(w.hidden["number"])),
    "deleted": (Model, lambda w: getattr(w, "w", 3.0), lambda w: delattr(w, "w")),
    "new": (lambda number: Model(), lambda w: getattr(w, "new", 2.0), lambda w: setattr(w, "new", 3.0)),
}


def read_only(array: Any) -> Any:
    view = array.view()
    view.flags.writeable = False
    return view


@pytest.mark.sweep
@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("as_argument", [False, True])
def test_every_attribute_that_is_changed_in_place_is_seen(
    mode: engine.ExecutionMode, kind: str, as_argument: bool
) -> None:
    make, read, change = CHANGES[kind]
    KEEP.clear()

    class Holder:
        def __init__(self) -> None:
            self.w = make(2.0)

        @engine.function
        def scaled(self, x: Any) -> Any:
            return x * read(self.w)

    holder = Holder()
    function = engine.function(lambda holder, x: x * read(holder.w))
    call: Callable[[Any], Any] = (lambda x: function(holder, x)) if as_argument else holder.scaled
    for _ in range(2):
        assert value(call(X)) == [0, 2, 4]
    change(holder.w)
    for _ in range(2):
        assert value(call(X)) == [0, 3, 6]


def test_a_trace_is_kept_while_nothing_changes(mode: engine.ExecutionMode) -> None:
    class Everything:
        def __init__(self) -> None:
            for name, (make, _) in HOLDERS.items():
                setattr(self, name, make(2.0))
            self.lock, self.logger, self.event = threading.Lock(), logging.getLogger("test"), threading.Event()

        @engine.function
        def same(self, x: Any) -> Any:
            return x * self.float  # type: ignore[attr-defined]

    everything = Everything()
    for _ in range(3):
        assert value(everything.same(X)) == [0, 2, 4]
    assert everything.same.statistics().traces == 1


def test_a_flag_has_a_trace_for_each_value(mode: engine.ExecutionMode) -> None:
    class Layer:
        training = True

        @engine.function
        def forward(self, x: Any) -> Any:
            return x * 2 if self.training else x

    layer = Layer()
    for _ in range(3):
        for layer.training in (True, False):
            assert value(layer.forward(X)) == (X * (2 if layer.training else 1)).tolist()
    assert layer.forward.statistics().traces == 2


def test_of_weights_that_change_only_the_last_trace_is_kept(
    mode: engine.ExecutionMode, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model()
    cells = []
    with caplog.at_level(logging.WARNING, "engine.function"):
        for number in range(10):
            model.w = ops.full(3, float(number))
            cells.append(weakref.ref(model.w._cell))
            assert value(model.scaled(X)) == (X * number).tolist()
    gc.collect()
    assert sum(each() is not None for each in cells) == 1
    assert model.scaled.statistics().signatures == 1
    assert "each change of an attribute of an object" in caplog.text


def test_an_array_of_equal_content_is_no_change(mode: engine.ExecutionMode) -> None:
    model = Model(np.ones(3))
    for _ in range(3):
        model.w = np.ones(3)
        model.scaled(X)
    assert model.scaled.statistics().traces == 1
    model.w = np.array([1.0, 1.0, -0.0])
    assert value(model.scaled(X)) == [0, 1, 0]
    model.w = np.array([1.0, 1.0, 0.0])
    model.scaled(X)
    assert model.scaled.statistics().traces == 3


def test_a_symbol_that_is_left_in_an_object_is_refused(mode: engine.ExecutionMode) -> None:
    class Leaking:
        def __init__(self) -> None:
            self.state: Any = None
            self.parts: list[Any] = [0]

        @engine.function
        def step(self, x: Any) -> Any:
            self.state = x + 1
            return self.state

        @engine.function
        def append(self, x: Any) -> Any:
            self.parts[0] = x + 1
            return x

    with pytest.raises(engine.SymbolError, match=r"'step' left 'state' of Leaking with a symbol.* assign it outside"):
        Leaking().step(X)
    with pytest.raises(engine.SymbolError, match=r"'append' left 0 of list with a symbol"):
        Leaking().append(X)


def test_a_function_that_changes_its_object_runs_at_each_call(mode: engine.ExecutionMode) -> None:
    class Counting:
        calls = 0

        @engine.function
        def step(self, x: Any) -> Any:
            self.calls += 1
            return x + self.calls

    counting = Counting()
    assert [value(counting.step(X))[0] for _ in range(4)] == [1, 2, 3, 4]


def test_what_refers_to_too_much_is_refused(mode: engine.ExecutionMode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "OBJECTS", 100)
    model = Model([[number] for number in range(101)])
    with pytest.raises(TypeError, match=r"'scaled' compares the attributes .* Model refers to more than 100 objects"):
        model.scaled(X)
    chain: Any = None
    monkeypatch.setattr(attributes, "OBJECTS", 100_000)
    for _ in range(5_000):
        chain = [chain]
    model.w = chain
    with pytest.raises(TypeError, match="or too deeply"):
        model.scaled(X)


def test_an_object_may_be_passed_that_cannot_be_hashed(mode: engine.ExecutionMode) -> None:
    function = engine.function(lambda data, x: x * data.w)
    for w in (2.0, 3.0, 2.0):
        assert value(function(Data(w), X)) == (X * w).tolist()
    assert function.statistics().traces == 2


def test_an_abstract_class_gives_methods_too(mode: engine.ExecutionMode) -> None:
    class Base(ABC):
        @abstractmethod
        def weight(self) -> float: ...

        @engine.function
        def scaled(self, x: Any) -> Any:
            return x * self.weight()

    class Real(Base):
        w = 2.0

        def weight(self) -> float:
            return self.w

    real = Real()
    assert value(real.scaled(X)) == [0, 2, 4]
    Real.w = 3.0
    assert value(real.scaled(X)) == [0, 3, 6]


def test_methods_work_in_graphs() -> None:
    model = Model(2.0)
    x = engine.placeholder("f8", 3)
    first = model.scaled(x)
    model.w = 3.0
    second = model.scaled(x)
    with engine.Session() as session:
        assert [each.tolist() for each in session.run([first, second], {x: X})] == [[0, 2, 4], [0, 3, 6]]


def test_threads_share_methods_of_many_instances(mode: engine.ExecutionMode) -> None:
    models = [Model(float(number)) for number in range(6)]
    results: list[bool] = []

    def work() -> None:
        for _ in range(5):
            results.extend(value(model.scaled(X)) == (X * model.w).tolist() for model in models)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 120
