"""Placement: the pure decisions of which device an op runs on, what is copied there, and what a policy says to it."""

from collections.abc import Sequence

import pytest

from engine.base.errors import DevicePlacementError
from engine.base.modes import DevicePolicy
from engine.devices.base import Device
from engine.dispatch.placement import Placement, check_copies, describe_copy, place

CPU0, CPU1, CPU2 = Device("CPU:0"), Device("CPU:1"), Device("CPU:2")
NOWHERE = None


@pytest.mark.parametrize(
    ("inputs", "requested", "expected"),
    [
        ([], None, Placement(CPU0)),
        ([NOWHERE, NOWHERE], None, Placement(CPU0)),
        ([], CPU2, Placement(CPU2)),
        ([CPU1], None, Placement(CPU1)),
        ([CPU1, CPU1], None, Placement(CPU1)),
        ([NOWHERE, CPU1], None, Placement(CPU1)),
        ([CPU1, CPU0], None, Placement(CPU1, (1,))),
        ([CPU0, CPU1, CPU0], None, Placement(CPU0, (1,))),
        ([NOWHERE, CPU2, CPU1, NOWHERE, CPU0], None, Placement(CPU2, (2, 4))),
        ([CPU1], CPU1, Placement(CPU1)),
        ([CPU0, CPU1], CPU1, Placement(CPU1, (0,))),
        ([CPU0, NOWHERE, CPU1], CPU2, Placement(CPU2, (0, 2))),
    ],
)
def test_the_scope_counts_then_the_first_input_then_the_default(
    inputs: Sequence[Device | None], requested: Device | None, expected: Placement
) -> None:
    assert place(inputs, requested, CPU0) == expected


def test_the_default_device_need_not_be_the_first() -> None:
    assert place([None], None, CPU2) == Placement(CPU2)


ALL_INT32 = {0, 1, 2}


@pytest.mark.parametrize(
    ("policy", "int32", "refused"),
    [
        (DevicePolicy.SILENT, set(), None),
        (DevicePolicy.WARN, set(), None),
        (DevicePolicy.EXPLICIT, set(), 1),
        (DevicePolicy.EXPLICIT, ALL_INT32, 1),
        (DevicePolicy.SILENT_FOR_INT32, set(), 1),
        (DevicePolicy.SILENT_FOR_INT32, {1}, 2),
        (DevicePolicy.SILENT_FOR_INT32, {2}, 1),
        (DevicePolicy.SILENT_FOR_INT32, ALL_INT32, None),
    ],
)
def test_what_each_policy_refuses(policy: DevicePolicy, int32: set[int], refused: int | None) -> None:
    inputs = [CPU0, CPU1, CPU2]
    placement = place(inputs, None, CPU0)
    if refused is None:
        check_copies("add", placement, inputs, policy, int32.__contains__)
    else:
        with pytest.raises(DevicePlacementError, match=f"input #{refused} "):
            check_copies("add", placement, inputs, policy, int32.__contains__)


@pytest.mark.parametrize("policy", DevicePolicy)
def test_no_policy_minds_inputs_that_need_no_copy(policy: DevicePolicy) -> None:
    def never(index: int) -> bool:
        raise AssertionError("nobody needs to know a dtype here")

    inputs = [None, CPU1, CPU1]
    check_copies("add", place(inputs, None, CPU0), inputs, policy, never)


def test_the_error_has_the_facts_and_says_how_to_copy() -> None:
    inputs = [CPU0, CPU1]
    with pytest.raises(DevicePlacementError) as caught:
        check_copies("matmul", place(inputs, None, CPU0), inputs, DevicePolicy.EXPLICIT, lambda index: False)
    message = str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert "cannot compute 'matmul' as input #1 was expected to be on CPU:0 but is actually on CPU:1" in message
    assert "(operation running on CPU:0)" in message
    assert "to_device('CPU:0')" in message


def test_a_copy_is_described_by_index_and_both_devices() -> None:
    inputs = [CPU1, CPU2]
    assert describe_copy(Placement(CPU0, (0, 1)), inputs, 1) == (
        "input #1 was expected to be on CPU:0 but is actually on CPU:2 (operation running on CPU:0)"
    )
