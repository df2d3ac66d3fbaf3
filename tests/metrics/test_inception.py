"""The Inception wrapper on a file of random weights in the published format."""

import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from agelib import tv
from agelib.metrics import inception, inception_score

tv.import_torchvision()

import torch_fidelity  # noqa: E402  needs the torchvision import above
from torch_fidelity import feature_extractor_inceptionv3 as original  # noqa: E402


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """(path, sha256) of a random-weight state dict, spread so that the logits differ from image to image."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(original, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(original.FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
        net = original.FeatureExtractorInceptionV3("random", ["2048"])
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    torch.nn.init.normal_(net.fc.weight)
    path = tmp_path_factory.mktemp("weights") / inception.FILE
    torch.save(net.state_dict(), path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


class Images(Dataset):
    def __init__(self, seed: int, n: int):
        self.x = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, 2, 2), dtype=np.uint8))
        self.x = self.x.repeat_interleave(16, 2).repeat_interleave(16, 3)  # 32 px, four colours each

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i]


def test_one_pass_gives_torch_fidelitys_numbers(weights):
    path, sha256 = weights
    a, b = Images(0, 4), Images(1, 4)
    net = inception.load(inception.find_weights(path, sha256=sha256))
    (probs, made), (_, real) = (inception.read(net, part.x.numpy(), batch_size=3) for part in (a, b))
    theirs = torch_fidelity.calculate_metrics(
        input1=a, input2=b, isc=True, fid=True, isc_splits=2, samples_shuffle=False, cuda=False, cache=False, verbose=False,
        feature_extractor_weights_path=str(path), batch_size=4, save_cpu_ram=True,
    )  # fmt: skip
    mean, std = inception_score.inception_score(probs, 2)
    assert mean > 1.001, "the images must not all look alike to the random network"
    assert mean == pytest.approx(theirs["inception_score_mean"], abs=1e-4)
    assert std == pytest.approx(theirs["inception_score_std"], abs=1e-4)
    distance = inception_score.frechet_distance(made, real)
    assert distance == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4, abs=1e-4)
    assert probs.shape == (4, 1008) and made.shape == (4, 2048)
    assert probs.sum(1) == pytest.approx(np.ones(4), abs=1e-5)


def test_a_grey_image_is_read_as_colour(weights):
    net = inception.load(weights[0])
    grey = Images(2, 1).x[:, :1].numpy()
    found = inception.read(net, grey)
    assert found[1] == pytest.approx(inception.read(net, np.repeat(grey, 3, 1))[1])


def test_the_file_is_found_in_the_usual_cache(weights, tmp_path, monkeypatch):
    path, sha256 = weights
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(inception.WeightsError, match=rf"is not there; put {inception.FILE} from https.*sha256 {sha256}"):
        inception.find_weights(download=False, sha256=sha256)
    place = tmp_path / "hub" / "checkpoints" / inception.FILE
    place.parent.mkdir(parents=True)
    os.link(path, place)
    assert inception.find_weights(download=False, sha256=sha256) == place


def test_a_wrong_checksum_and_a_missing_path_are_refused(weights, tmp_path):
    with pytest.raises(inception.WeightsError, match=f"expected {inception.SHA256}"):
        inception.find_weights(weights[0])
    with pytest.raises(inception.WeightsError, match="no such file"):
        inception.find_weights(tmp_path / "absent.pth")


def test_a_failed_download_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(inception, "URL", (tmp_path / "nothing.pth").as_uri())
    with pytest.raises(inception.WeightsError, match=r"the download of .* failed .*; put .* into "):
        inception.find_weights()


def test_a_download_is_checked(weights, tmp_path, monkeypatch):
    path, sha256 = weights
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(inception, "URL", path.as_uri())
    with pytest.raises(inception.WeightsError, match="failed"):
        inception.find_weights(sha256="0" * 64)
    assert not (inception.cache() / inception.FILE).exists()
    assert inception.find_weights(sha256=sha256) == inception.cache() / inception.FILE


class Danger:
    def __reduce__(self):
        return os.mkdir, (os.environ["AGELIB_TEST_DANGER"],)


def test_code_in_the_pickle_is_not_run(tmp_path, monkeypatch):
    trace = tmp_path / "it ran"
    monkeypatch.setenv("AGELIB_TEST_DANGER", str(trace))
    for name, write in (("zip.pth", lambda path: torch.save({"fc.weight": Danger()}, path)),
                        ("plain.pth", lambda path: path.write_bytes(pickle.dumps(Danger())))):  # fmt: skip
        path = tmp_path / name
        write(path)
        with pytest.raises(inception.WeightsError, match="no plain file of weights"):
            inception.load(path)
    assert not trace.exists()


@pytest.mark.parametrize("state", [{"a": 1}, [1, 2], {"fc.weight": torch.zeros(2)}], ids=["numbers", "list", "another net"])
def test_other_files_are_no_weights(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(inception.WeightsError, match="not the weights of this network"):
        inception.load(tmp_path / "w.pth")
