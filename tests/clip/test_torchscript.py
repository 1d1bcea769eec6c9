"""Tensors of PyTorch's archives, of which no code is ever run."""

import archives
import clips
import jax
import numpy as np
import pytest

from sotglp_jax import clip
from sotglp_jax.clip import weights
from sotglp_jax.errors import InputError


def test_openais_archive_is_read_without_pytorch(clip_folder, tmp_path):
    pads = archives.Global("torch.jit._pickle.build_intlist", ([0, 0],))
    tagged = archives.Global("torch.jit._pickle.restore_type_tag", ({"a": 1}, "Dict[str, int]"))
    more = {"input_resolution": np.float32(32), "transformer.resblocks.0.attn_mask": np.eye(3)}
    tensors = clips.tensors() | {name: np.asarray(x, np.float32) for name, x in more.items()}
    archives.write(tmp_path / "OpenAI.pt", tensors, pads=pads, tagged=tagged, none=None)
    clips.tokenizer(tmp_path)
    loaded, reference = clip.load(str(tmp_path / "OpenAI.pt")), clip.load(str(clip_folder))
    assert loaded.arch == reference.arch
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float16).astype(np.float32)),
        loaded.params,
        reference.params,
    )


def test_tensors_of_an_archive_may_share_and_stride(tmp_path):
    views = {"a": archives.tensor("0", (2, 3), (1, 2)), "b": archives.tensor("0", (), (), offset=5)}
    path = archives.write(tmp_path / "x.pt", {"all": np.arange(6.0, dtype=np.float32)}, **views)
    read = weights.read((path,))
    np.testing.assert_array_equal(read["a"], [[0, 2, 4], [1, 3, 5]])
    assert read["b"] == 5 and read["b"].dtype == np.float32


def refusal(path):
    with pytest.raises(InputError, match="not a TorchScript archive as OpenAI publishes") as caught:
        weights.read((path,))
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("os.system", "touch {}"),
        ("builtins.eval", "open({!r}, 'w')"),
        ("builtins.getattr", "x"),
        ("torch.hub.load", "x"),
        ("torch.jit._pickle.build_tensor_from_id", 0),
        ("torch.FooStorage", 0),
    ],
)
def test_an_archive_that_names_more_is_refused(tmp_path, name, arguments):
    path, trace = tmp_path / "x.pt", tmp_path / "was run"
    called = archives.Global(name, (str(arguments).format(str(trace)),))
    archives.write(path, clips.tensors(), called=called)
    assert f"it asks for {name}" in refusal(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        archives.tensor("0", (1000, 1000), (1000, 1)),
        archives.tensor("0", (2,), (-(10**6),)),
        archives.tensor("0", (2,), (1,), offset=-1),
        archives.tensor("0", (2,), (1,), kind="QInt8Storage"),
        archives.tensor("99", (2,), (1,)),
        archives.tensor("../data.pkl", (2,), (1,)),
    ],
)
def test_a_tensor_of_other_bytes_than_its_own_is_refused(tmp_path, wrong):
    archives.write(tmp_path / "x.pt", {"a": np.zeros(6, np.float32)}, wrong=wrong)
    refusal(tmp_path / "x.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_pytorch_itself_writes_is_read(tmp_path):
    torch = pytest.importorskip("torch")

    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = torch.nn.Conv2d(3, 4, 2, bias=False)
            self.blocks = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
            self.attn_mask, self.sizes, self.label = torch.zeros(2, 2), [1, 2], "x"
            self.register_buffer("input_resolution", torch.tensor(32))
            self.logit_scale = torch.nn.Parameter(torch.tensor(4.6))

        def forward(self, x):
            return self.blocks(self.conv1(x).flatten(1) * self.logit_scale)

    tower = Tower().half().eval()
    traced = torch.jit.trace_module(tower.float(), {"forward": torch.ones(1, 3, 2, 2)})
    for i, module in enumerate((torch.jit.script(tower.half()), traced)):
        torch.jit.save(module, tmp_path / f"{i}.pt")
        expected = torch.jit.load(tmp_path / f"{i}.pt").state_dict()
        read = weights.read((tmp_path / f"{i}.pt",))
        # A scripted module keeps its mask as a plain attribute, a traced one does not.
        assert expected.keys() <= read.keys() <= expected.keys() | {"attn_mask"}
        for name, x in expected.items():
            np.testing.assert_array_equal(read[name], x.float().numpy())
