"""What is counted in the text of compiled programs."""

import textwrap

import jax
import jax.numpy as jnp
import pytest
from compilers import hlo
from compilers.counters import count


def program(entry, *computations):
    """The text of a compiled program, as XLA prints it."""

    def block(head, body):
        return f"{head} {{\n{textwrap.indent(textwrap.dedent(body).strip(), '  ')}\n}}"

    blocks = [
        block(f"%{name} (p: f32[]) -> f32[]", body) for name, body in computations
    ]
    blocks.append(block("ENTRY %main.1 (p: f32[]) -> f32[]", entry))
    return "\n\n".join(["HloModule jit_f, is_scheduled=true", *blocks])


@pytest.mark.parametrize(
    ("text", "nbytes", "stored"),
    [
        ("f32[3,5]{1,0}", 60, 60),
        ("bf16[3,5]{1,0}", 30, 30),
        ("pred[7]{0}", 7, 7),
        ("f8e4m3fn[7]{0}", 7, 7),
        ("s4[8]{0}", 4, 4),
        ("c64[2]{0}", 16, 16),
        ("f32[]", 4, 4),
        ("token[]", 0, 0),
        # The tile's last number belongs to the most minor axis.
        ("f32[9,130]{1,0:T(8,128)}", 4 * 9 * 130, 4 * 16 * 256),
        ("f32[9,130]{0,1:T(8,128)}", 4 * 9 * 130, 4 * 128 * 136),
        ("bf16[2,9,130]{2,1,0:T(8,128)(2,1)}", 2 * 2 * 9 * 130, 2 * 2 * 16 * 256),
        ("f32[100]{0:T(128)}", 400, 512),
        ("f32[100,3]{1,0:T(128)}", 1200, 4 * 100 * 128),
    ],
)
def test_the_bytes_of_an_array(text, nbytes, stored):
    module = hlo.parse(program(f"ROOT %p = {text} parameter(0)"))
    (array,) = module.computations["main.1"]["p"].arrays
    assert (array.nbytes, array.stored_bytes) == (nbytes, stored)


def test_an_instruction_is_read():
    text = program(
        """
        %p = f32[8]{0:T(256)} parameter(0)
        ROOT %f.1 = (f32[8]{0:T(256)S(1)}, /*index=1*/bf16[2,4]{1,0}) fusion(%p, %p), \
kind=kLoop, calls=%fused.2, metadata={op_name="jit(f)/add" stack_frame_id=3}
        """,
        ("fused.2", "ROOT %q = f32[8]{0} parameter(1)"),
    )
    module = hlo.parse(text)
    fusion = module.computations["main.1"]["f.1"]
    assert fusion.opcode == "fusion"
    assert fusion.operands == ("p", "p")
    assert fusion.called == ["fused.2"]
    assert [array.sizes for array in fusion.arrays] == [(8,), (2, 4)]
    assert [array.in_main_memory for array in fusion.arrays] == [False, True]
    assert module.computations["fused.2"]["q"].arguments == "1"


def test_text_without_an_entry_is_an_error():
    with pytest.raises(ValueError, match="must have an ENTRY"):
        hlo.parse("module @jit_f { func.func public @main() }")


# With their traffic and kernels. x is 400 bytes, and 512 in tiles of 128 elements.
PROGRAMS = {
    "reads operands once, writes results": (
        "ROOT %y = (f32[100]{0}, f32[2]{0}) custom-call(%x, %v, %x), target=a",
        400 + 8 + 400 + 8,
        1,
    ),
    "moves nothing": (
        """
        %b = f32[10,10]{1,0} bitcast(%x)
        %t = (f32[10,10]{1,0}, f32[2]{0}) tuple(%b, %v)
        %c = f32[100]{0} constant({...})
        ROOT %g = f32[2]{0} get-tuple-element(%t), index=1
        """,
        0,
        0,
    ),
    "in tiles": (
        "ROOT %y = f32[100]{0:T(128)} negate(%x)",
        400 + 512,
        1,
    ),
    "to the chip": (
        """
        %s = (f32[100]{0:T(128)S(1)}, f32[100]{0}, u32[]{:S(2)}) copy-start(%x)
        %d = f32[100]{0:T(128)S(1)} copy-done(%s)
        ROOT %y = f32[100]{0:T(128)S(1)} negate(%d)
        """,
        512,
        1,
    ),
    "from the chip": (
        """
        %y = f32[100]{0:T(128)S(1)} custom-call(), target=a
        %s = (f32[100]{0:T(128)}, f32[100]{0:T(128)S(1)}, u32[]{:S(2)}) copy-start(%y)
        ROOT %d = f32[100]{0:T(128)} copy-done(%s)
        """,
        512,
        1,
    ),
    "from main memory to main memory": (
        """
        %s = (f32[100]{0}, f32[100]{0}, u32[]{:S(2)}) copy-start(%x)
        ROOT %d = f32[100]{0} copy-done(%s)
        """,
        800,
        0,
    ),
    "slices to the chip, where they are one array": (
        """
        %s = ((f32[100]{0}), f32[40]{0:S(1)}, s32[]{:S(2)}) slice-start(%x)
        %d = f32[40]{0:S(1)} slice-done(%s)
        %t = ((f32[100]{0}), f32[60]{0:S(1)}, s32[]{:S(2)}) slice-start(%x)
        %e = f32[60]{0:S(1)} slice-done(%t)
        %y = f32[100]{0:S(1)} custom-call(%d, %e), custom_call_target="ConcatBitcast"
        """,
        160 + 240,
        0,
    ),
    "reads a slice": (
        "ROOT %y = f32[10]{0} fusion(%x, %v), kind=kLoop, calls=%some",
        40 + 8 + 40,
        1,
    ),
    "reads all for a slice and more": (
        "ROOT %y = f32[10]{0} fusion(%x, %v), kind=kLoop, calls=%all",
        400 + 8 + 40,
        1,
    ),
    "is not waited for": (
        """
        %s = ((f32[100]{0}), f32[10]{0}, s32[]{:S(2)}) async-start(%x), calls=%later
        ROOT %d = f32[10]{0} async-done(%s)
        """,
        400 + 40,
        1,
    ),
}
CALLED = [
    ("later", "%a = f32[100]{0} parameter(0)\nROOT %b = f32[10]{0} sort(%a)"),
    (
        "some",
        """
        %a = f32[100]{0} parameter(0)
        %b = f32[2]{0} parameter(1)
        %c = f32[10]{0} slice(%a), slice={[0:10]}
        ROOT %d = f32[10]{0} pad(%b, %c)
        """,
    ),
    (
        "all",
        """
        %b = f32[2]{0} parameter(1)
        %a = f32[100]{0} parameter(0)
        %c = f32[10]{0} slice(%a), slice={[0:10]}
        ROOT %d = f32[10]{0} reduce-window(%a, %b, %c)
        """,
    ),
]


@pytest.mark.parametrize("name", PROGRAMS)
def test_traffic_and_kernels(name):
    body, traffic, kernels = PROGRAMS[name]
    inputs = "%x = f32[100]{0} parameter(0)\n%v = f32[2]{0} parameter(1)\n"
    text = program(inputs + textwrap.dedent(body).strip(), *CALLED)
    counts = count(text)
    assert (counts.traffic, counts.kernels) == (traffic, kernels)


LOOP = """
    %x = f32[100]{0} parameter(0)
    %n = f32[100]{0} negate(%x), backend_config={"estimated_cycles":"7"}
    ROOT %y = f32[100]{0} while(%n), condition=%test, body=%turn, backend_config={TRIPS}
"""
BODIES = [
    ("test", "ROOT %a = pred[] constant(true)"),
    (
        "turn",
        """
        %a = f32[100]{0} parameter(0)
        ROOT %b = f32[100]{0} negate(%a), backend_config={"estimated_cycles":"30"}
        """,
    ),
]


@pytest.mark.parametrize(
    ("trips", "times"), [('"known_trip_count":{"n":"5"}', 5), ("", 1)]
)
def test_a_loop_counts_as_often_as_it_is_repeated(trips, times):
    counts = count(program(LOOP.replace("TRIPS", trips), *BODIES))
    assert counts.kernels == 1 + times
    assert counts.traffic == 800 * (1 + times)
    assert counts.cycles == 7 + 30 * times


def test_the_kernels_of_a_called_computation_count():
    entry = "%x = f32[100]{0} parameter(0)\n"
    entry += "ROOT %y = f32[100]{0} call(%x), to_apply=%turn"
    assert count(program(entry, *BODIES)).kernels == 1


def test_estimates_are_none_where_a_compiler_makes_none():
    entry = "%x = f32[100]{0} parameter(0)\nROOT %y = f32[100]{0} negate(%x)"
    assert count(program(entry)).cycles is None


def test_collectives():
    text = program(
        """
        %x = f32[100]{0:T(128)} parameter(0)
        %v = bf16[2]{0} parameter(1)
        %a = (f32[100]{0}, bf16[2]{0}) all-reduce(%x, %v), to_apply=%sum
        %s = f32[100]{0} all-reduce-start(%x), to_apply=%sum
        %d = f32[100]{0} all-reduce-done(%s)
        %g = f32[100]{0} fusion(%x), kind=kCustom, calls=%gather
        ROOT %h = f32[200]{0} async-start(%x), calls=%gather
        """,
        ("sum", "%p = f32[] parameter(0)\nROOT %q = f32[] add(%p, %p)"),
        (
            "gather",
            "%p = f32[100]{0} parameter(0)\nROOT %q = f32[200]{0} all-gather(%p)",
        ),
    )
    counts = count(text)
    assert counts.collectives == 4
    assert counts.collective_bytes == 404 + 400 + 400 + 400


def test_a_program_of_known_traffic():
    x = jax.ShapeDtypeStruct((1000,), jnp.float32)
    text = jax.jit(lambda x: x + 1).lower(x).compile().as_text()
    counts = count(text)
    assert (counts.traffic, counts.kernels, counts.collectives) == (8000, 1, 0)
