"""hf/<folder>: image classifiers of transformers, with their own image processors."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import transformers
from PIL import Image

import relook
from relook.geometry import Geometry
from relook.models import transformers as source
from test_models import Bomb

CNN = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1]}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
SQUASHED = {"size": {"height": 32, "width": 32}}
COVERED = {"size": {"shortest_edge": 73}, "crop_size": {"height": 64, "width": 64}}
KINDS = {
    "vit": ("ViT", VIT, "ViT", SQUASHED, "vit.layers.1"),
    "deit": (
        "DeiT",
        VIT,
        "DeiT",
        {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}},
        "deit.layers.1",
    ),
    # The mean over the tokens is read, so that the last ones count.
    "beit": ("Beit", VIT, "Beit", SQUASHED | {"do_center_crop": False}, "beit.layers.2"),
    "swin": (
        "Swin",
        {
            "image_size": 64,
            "embed_dim": 8,
            "depths": [1, 1, 2],
            "num_heads": [1, 2, 2],
            "window_size": 4,
        },
        "ViT",
        {"size": {"height": 64, "width": 64}},
        "swin.layernorm",
    ),
    "convnextv2": (
        "ConvNextV2",
        CNN,
        "ConvNext",
        {"size": {"shortest_edge": 64}},
        "convnextv2.encoder.stages.3",
    ),
    "resnet": (
        "ResNet",
        CNN | {"embedding_size": 8, "layer_type": "basic"},
        "ConvNext",
        {"size": {"shortest_edge": 65}, "crop_pct": 0.9},
        "resnet.encoder.stages.3",
    ),
    "mobilenet_v2": (
        "MobileNetV2",
        {"depth_multiplier": 0.35},
        "MobileNetV2",
        COVERED,
        "mobilenet_v2.conv_1x1",
    ),
    "efficientnet": (
        "EfficientNet",
        {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
        "EfficientNet",
        {"size": {"height": 64, "width": 64}, "rescale_factor": 1 / 127.5, "rescale_offset": True},
        "efficientnet.encoder.top_activation",
    ),
    "levit": (
        "Levit",
        {
            "image_size": 128,
            "hidden_sizes": [16, 16],
            "num_attention_heads": [1, 1],
            "depths": [1, 1],
            "key_dim": [4, 4],
            "attention_ratio": [2, 2],
            "mlp_ratio": [2, 2],
            "down_ops": [["Subsample", 4, 1, 4, 2, 2]],
        },
        "Levit",
        {"size": {"shortest_edge": 128}, "crop_size": {"height": 128, "width": 128}},
        "levit.encoder.stages.1",
    ),
}
LABELS = ["tench", "goldfish", "shark", "ray", "hen"]


def make(kind, **options):
    """A network with random weights, batch normalisation's too."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        architectures=[f"{kind}ForImageClassification"],
        **options,
    )
    network = transformers.AutoModelForImageClassification.from_config(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        # Else answers of random networks are all alike.
        list(network.parameters())[-2].mul_(10)
    return network.eval()


def write_processor(folder, kind, **settings):
    getattr(transformers, f"{kind}ImageProcessor")(**settings).save_pretrained(folder)


def read_processor(folder):
    backend = {"backend": "pil"} if hasattr(transformers, "PilBackend") else {"use_fast": False}
    return transformers.AutoImageProcessor.from_pretrained(folder, **backend)


@pytest.fixture(params=KINDS)
def kind(request, tmp_path):
    """A folder with a tiny model, and the layer that should be found."""
    network, options, processor, settings, layer = KINDS[request.param]
    make(network, **options).save_pretrained(tmp_path)
    write_processor(tmp_path, processor, **settings)
    return tmp_path, layer


@pytest.fixture(scope="module")
def saved_resnet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resnet")
    _, options, processor, settings, _ = KINDS["resnet"]
    make("ResNet", **options).save_pretrained(folder)
    write_processor(folder, processor, **settings)
    return folder


@pytest.fixture
def resnet(saved_resnet, tmp_path):
    """A folder of one's own with a tiny ResNet."""
    return shutil.copytree(saved_resnet, tmp_path / "resnet")


@pytest.fixture
def vit(tmp_path):
    """The same with a ViT, whose weights are saved under other names than its modules have."""
    folder = tmp_path / "vit"
    make("ViT", **VIT).save_pretrained(folder)
    write_processor(folder, "ViT", **SQUASHED)
    return folder


def photo(width, height):
    noise = np.random.default_rng(width).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


PHOTOS = [photo(*size) for size in ((150, 100), (99, 73), (73, 101), (64, 64), (20, 31))]


def test_answers_are_those_of_transformers(kind):
    folder, layer = kind
    classifier = relook.load(f"hf/{folder}")
    assert classifier.labels == tuple(LABELS)
    assert classifier.target_layer == layer
    network = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = read_processor(folder)
    for image in PHOTOS:
        with torch.no_grad():
            outputs = network(**processor(images=image, return_tensors="pt")).logits
        probabilities = classifier(classifier.pixels(image).unsqueeze(0))
        torch.testing.assert_close(probabilities, outputs.softmax(-1), atol=1e-5, rtol=1e-4)
    assert probabilities.max() - probabilities.min() > 0.01  # else this would show nothing


def test_they_are_corrected(kind):
    folder, _ = kind
    corrector = relook.Corrector(relook.load(f"hf/{folder}"), look="poster", budget=4)
    corrections = [corrector.correct(image) for image in PHOTOS]
    assert {correction.attribution_forwards for correction in corrections} == {4}
    # Few of a random network's maps are positive anywhere, so that some find nothing.
    assert any(not torch.equal(c.before, c.after) for c in corrections)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViT", {"size": {"height": 48, "width": 32}, "resample": 1}),
        ("ViT", SQUASHED | {"resample": 0, "do_normalize": False}),
        ("ViT", SQUASHED | {"do_rescale": False, "do_normalize": False}),
        ("ViT", SQUASHED | {"do_rescale": False, "image_mean": [123, 117, 104], "image_std": [1, 1, 2]}),
        ("CLIP", {"size": {"shortest_edge": 40}, "crop_size": {"height": 37, "width": 40}}),
        ("MobileNetV1", COVERED),
        ("ConvNext", {"size": {"shortest_edge": 97}, "crop_pct": 0.9}),
        ("ConvNext", {"size": {"shortest_edge": 384}}),
        ("Levit", COVERED),
        ("PoolFormer", COVERED | {"crop_pct": 0.95}),
        ("Beit", SQUASHED | {"do_center_crop": True, "crop_size": {"height": 27, "width": 24}}),
        ("EfficientNet", SQUASHED),
        ("EfficientNet", SQUASHED | {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
        ("EfficientNet", SQUASHED | {"include_top": False}),
    ],
)  # fmt: skip
def test_pixels_are_those_of_the_image_processor(resnet, kind, settings):
    write_processor(resnet, kind, **settings)
    classifier, processor = relook.load(f"hf/{resnet}"), read_processor(resnet)
    std = torch.tensor(classifier.std).reshape(3, 1, 1)
    for image in PHOTOS:
        wanted = processor(images=image, return_tensors="pt")["pixel_values"][0]
        got = classifier.normalised(classifier.pixels(image))
        torch.testing.assert_close(got * std, wanted * std, atol=1e-6, rtol=1e-6)


def test_mean_and_std_are_not_measured_but_said(resnet):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    write_processor(resnet, "ViT", **SQUASHED, image_mean=mean, image_std=std)
    classifier = relook.load(f"hf/{resnet}")
    assert (list(classifier.mean), list(classifier.std)) == (mean, std)


def test_a_crop_that_is_one_pixel_off_is_noticed(resnet, monkeypatch):
    """Other libraries round the corner of the crop, transformers rounds it down."""
    write_processor(resnet, "ConvNext", size={"shortest_edge": 97}, crop_pct=0.9)
    relook.load(f"hf/{resnet}")
    monkeypatch.setattr(source, "Geometry", lambda *settings: Geometry(*settings[:-1], "rounded"))
    with pytest.raises(relook.ModelError, match=r"its pixels differ by \d\d/255"):
        relook.load(f"hf/{resnet}")


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        ("ViT", SQUASHED | {"do_resize": False}, "it does not resize"),
        ("CLIP", COVERED | {"do_center_crop": False}, "depends on the shape of the image"),
        ("CLIP", {"size": {"shortest_edge": 64, "longest_edge": 80}}, "its size is"),
        ("CLIP", {"size": {"shortest_edge": 64}}, "the crop .* must lie within"),
        ("Donut", {"size": {"height": 64, "width": 64}}, r"pixels differ by \d+/255"),
        ("MobileViT", COVERED, r"pixels differ by \d+/255"),
        (
            "Perceiver",
            SQUASHED | {"crop_size": {"height": 28, "width": 28}},
            "it returns 3×32×32, relook 3×28×28",
        ),
    ],
)
def test_image_processors_that_do_something_else(resnet, kind, settings, reason):
    write_processor(resnet, kind, **settings)
    with pytest.raises(relook.ModelError) as caught:
        relook.load(f"hf/{resnet}")
    assert caught.match(
        rf"image processor {kind}\w+ is not one that relook can reproduce \(.*{reason}"
    )
    assert caught.match("wrap the network in relook.Classifier")


def test_timm_in_transformers(tmp_path):
    network = timm.create_model("resnet10t", num_classes=5)
    config = network.pretrained_cfg | {"test_crop_pct": 0.9, "interpolation": "bilinear"}
    described = {
        "architecture": "resnet10t",
        "num_classes": 5,
        "label_names": LABELS,
        "pretrained_cfg": config,
        "model_type": "timm_wrapper",
    }
    (tmp_path / "config.json").write_text(json.dumps(described))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "model.safetensors")
    classifier = relook.load(f"hf/{tmp_path}")
    assert classifier.target_layer == "timm_model.layer4"
    assert classifier.labels == tuple(LABELS)
    # As timm's validate.py tests it, which the image processor does not say: trained at 176×176.
    tested = timm.data.resolve_data_config(pretrained_cfg=config, use_test_size=True)
    assert classifier.input_size == (224, 224)
    transform = timm.data.create_transform(**tested)
    assert relook.load(f"hf/{tmp_path}", input_size=96).geometry.resize == (106, 106)
    for image in PHOTOS:
        inputs = transform(image).unsqueeze(0)
        pixels = classifier.pixels(image).unsqueeze(0)
        torch.testing.assert_close(classifier.normalised(pixels), inputs, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            classifier(pixels), network.eval()(inputs).softmax(-1), atol=1e-5, rtol=1e-4
        )


def test_another_input_size(resnet, vit):
    own = relook.load(f"hf/{resnet}")
    large = relook.load(f"hf/{resnet}", input_size=2 * own.input_size[0])
    assert large.input_size == (2 * own.input_size[0], 2 * own.input_size[0])
    assert large.geometry.resize[0] == 2 * own.geometry.resize[0]
    assert large.target_layer == own.target_layer
    with pytest.raises(relook.ModelError, match=r"does not take inputs of 64×64 .*its own 32×32"):
        relook.load(f"hf/{vit}", input_size=64)


def test_relative_folders_and_silence(resnet, monkeypatch, capfd):
    monkeypatch.chdir(resnet.parent)
    assert relook.load("hf/resnet").name == "hf/resnet"
    monkeypatch.setenv("HOME", str(resnet.parent))
    assert relook.load("hf/~/resnet").labels == tuple(LABELS)
    assert capfd.readouterr() == ("", "")


def test_a_repository_that_is_in_the_cache(resnet, tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "models--someone--flowers"
    shutil.copytree(resnet, cache / "snapshots" / "0123")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache.parent))
    assert relook.load("hf/someone/flowers").labels == tuple(LABELS)
    with pytest.raises(relook.ModelError, match="no folder someone/trees, and no repository"):
        relook.load("hf/someone/trees")


def test_random_weights_need_no_file(resnet):
    trained = relook.load(f"hf/{resnet}")
    (resnet / "model.safetensors").unlink()
    random = relook.load(f"hf/{resnet}", pretrained=False)
    assert random.labels == trained.labels
    assert not torch.equal(*(c.network.classifier[1].weight for c in (trained, random)))


@pytest.mark.parametrize("named", ["by their modules", "as transformers saves them"])
@pytest.mark.parametrize("classes", [5, 7])
def test_weights_of_ones_own(vit, tmp_path, named, classes):
    torch.manual_seed(1)
    network = transformers.ViTForImageClassification(
        transformers.ViTConfig(**VIT, num_labels=classes)
    ).eval()
    if named == "by their modules":
        file = tmp_path / "pytorch_model.bin"
        torch.save({"state_dict": network.state_dict()}, file)
    else:
        network.save_pretrained(tmp_path / "mine")
        file = tmp_path / "mine" / "model.safetensors"
    classifier = relook.load(f"hf/{vit}", checkpoint=file)
    assert len(classifier.labels) == classes
    assert (classifier.labels[1] == "goldfish") == (classes == 5)
    pixels = classifier.noise()
    with torch.no_grad():
        outputs = network(classifier.normalised(pixels)).logits
    torch.testing.assert_close(classifier(pixels), outputs.softmax(-1), atol=1e-6, rtol=1e-5)


def test_weights_of_another_network(resnet, vit):
    with pytest.raises(
        relook.ModelError,
        match=r"model\.safetensors: not the weights of a ResNetForImageClassification: it lacks "
        r"classifier\.1\.bias \(\d+ in all\); it has extra classifier\.bias",
    ):
        relook.load(f"hf/{resnet}", checkpoint=vit / "model.safetensors")


def test_other_widths(resnet):
    file = resnet / "model.safetensors"
    state = safetensors.torch.load_file(file)
    first = next(key for key, value in state.items() if value.ndim == 4)
    state[first] = torch.zeros(3, 3, 3, 3)
    safetensors.torch.save_file(state, file)
    for options in ({}, {"checkpoint": file}):
        with pytest.raises(relook.ModelError, match=f"other shapes: {first}"):
            relook.load(f"hf/{resnet}", **options)


def test_a_backbone_gets_no_random_classes(resnet):
    """transformers itself warns and goes on."""
    config = transformers.AutoConfig.from_pretrained(resnet)
    transformers.ResNetModel(config).save_pretrained(resnet)
    with pytest.raises(relook.ModelError, match=r"it lacks classifier\.1\.bias \(2 in all\)"):
        relook.load(f"hf/{resnet}")


def test_pickles_are_not_opened(resnet):
    (resnet / "model.safetensors").unlink()
    torch.save({"state_dict": Bomb(resnet / "boom")}, resnet / "pytorch_model.bin")
    with pytest.raises(relook.ModelError, match=r"holds no safetensors weights.*--checkpoint"):
        relook.load(f"hf/{resnet}")
    assert not (resnet / "boom").exists()


def test_code_in_the_folder_is_not_run(resnet):
    (resnet / "evil.py").write_text(f"open({str(resnet / 'boom')!r}, 'w')")
    edit(resnet / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.EvilConfig"})
    with pytest.raises(relook.ModelError, match=r"config\.json: cannot be read"):
        relook.load(f"hf/{resnet}")
    assert not (resnet / "boom").exists()


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"holds no config\.json"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json: cannot be read"),
        (
            lambda f: edit(f / "config.json", model_type="bert"),
            r"config\.json: describes a 'bert' model, for which transformers .* no image classifier",
        ),
        (lambda f: edit(f / "config.json", hidden_sizes=3), r"config\.json: "),
        (
            lambda f: (f / "preprocessor_config.json").unlink(),
            r"holds no preprocessor_config\.json.*processor\.save_pretrained",
        ),
        (
            lambda f: (f / "preprocessor_config.json").write_text("{"),
            r"preprocessor_config\.json: cannot be read as an image processor",
        ),
        (
            lambda f: edit(f / "preprocessor_config.json", image_processor_type="Nonsense"),
            r"preprocessor_config\.json: cannot be read as an image processor",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"0" * 99), "weights cannot be read"),
        (lambda f: edit(f / "config.json", num_channels=1), r"other shapes: .*embedder"),
    ],
    ids=range(9),
)
def test_damaged_folders(resnet, damage, message):
    damage(resnet)
    with pytest.raises(relook.ModelError, match=message):
        relook.load(f"hf/{resnet}")


@pytest.mark.parametrize("name", ["/no/such/folder", "no_such_folder", "a/b/c"])
def test_a_missing_folder(name):
    with pytest.raises(relook.ModelError, match=f"no folder {name}, .*download the repository"):
        relook.load(f"hf/{name}")


def test_without_transformers(resnet, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(relook.ModelError, match=r'pip install "relook\[hf\]"'):
        relook.load(f"hf/{resnet}")


def test_a_multi_label_network_is_refused(resnet):
    file = resnet / "config.json"
    config = json.loads(file.read_text()) | {"problem_type": "multi_label_classification"}
    file.write_text(json.dumps(config))
    with pytest.raises(relook.ModelError, match="a multi-label network, by its config"):
        relook.load(f"hf/{resnet}")
