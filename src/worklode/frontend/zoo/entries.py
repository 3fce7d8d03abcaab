"""What is published about every model of the zoo, beside the shapes this zoo trains it at. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

_TORCHVISION = "torchvision 0.28: num_params of the published weights"
_TORCHVISION_MACS = "torchvision 0.28: operations of the published weights (multiply-accumulates), inference"
_TRANSFORMERS = "transformers 5.18"
_ASSUMPTION = "assumption: one microbatch at the context the model was trained with"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooEntry:
    """One model.

    Attributes:
        name: what the command line calls it.
        task: what one training step learns.
        module: file of this package that holds its workload function.
        batch, batch_source: default samples of an iteration on one accelerator, and why.
        seq_len: default tokens of a sample, 0 where a sample is no token sequence.
        optimizer: name of the default optimizer.
        parameters, parameters_source: exact count, tied weights once, and an independent source of it.
        forward_macs, forward_macs_source: published multiply-accumulates of one sample's forward pass, products and
            convolutions only, at the default size; None where none is published in that form.
        paper: where the architecture is described.
        block: where its repeated blocks are, and what they are.
        notes: where the step departs from the paper, and why; else "".
    """

    name: str
    task: str
    module: str
    batch: int
    batch_source: str
    seq_len: int = 0
    optimizer: str
    parameters: int
    parameters_source: str
    forward_macs: float | None = None
    forward_macs_source: str = ""
    paper: str
    block: str
    notes: str = ""

    @property
    def function_name(self) -> str:
        """Name of the workload function in `module`."""
        return self.name.replace("-", "_").replace(".", "_")


ENTRIES: tuple[ZooEntry, ...] = (
    ZooEntry(
        name="mobilenet-v3-large",
        task="image classification, ImageNet-1k, 224 x 224",
        module="mobilenet",
        batch=128,
        batch_source="arXiv 1905.02244, section 6.1.1: 128 images per chip",
        optimizer="sgd-momentum",
        parameters=5_483_032,
        parameters_source=_TORCHVISION,
        forward_macs=0.217e9,
        forward_macs_source=f"{_TORCHVISION_MACS}; the paper has 219 M",
        paper="Howard et al., Searching for MobileNetV3, arXiv 1905.02244",
        block="blocks: inverted residuals, 15, nearly all different",
        notes="the paper trains with RMSProp",
    ),
    ZooEntry(
        name="resnet18",
        task="image classification, ImageNet-1k, 224 x 224",
        module="resnet",
        batch=32,
        batch_source="torchvision reference recipe: 32 images per GPU",
        optimizer="sgd-momentum",
        parameters=11_689_512,
        parameters_source=_TORCHVISION,
        forward_macs=1.814e9,
        forward_macs_source=_TORCHVISION_MACS,
        paper="He et al., Deep Residual Learning, arXiv 1512.03385",
        block="stages.*: residual blocks, 2 per stage",
    ),
    ZooEntry(
        name="inception-v3",
        task="image classification, ImageNet-1k, 299 x 299, with the auxiliary classifier",
        module="inception",
        batch=32,
        batch_source="arXiv 1512.00567, section 8: 32 images per replica",
        optimizer="sgd-momentum",
        parameters=27_161_264,
        parameters_source=_TORCHVISION,
        forward_macs=5.713e9,
        forward_macs_source=f"{_TORCHVISION_MACS}, without the auxiliary classifier",
        paper="Szegedy et al., Rethinking the Inception Architecture, arXiv 1512.00567",
        block="grid_35, grid_17, grid_8: parallel branches; widths differ from block to block",
        notes="the paper trains with RMSProp; at least 2 images, the auxiliary head normalises a 1x1 grid",
    ),
    ZooEntry(
        name="resnext101-32x8d",
        task="image classification, ImageNet-1k, 224 x 224",
        module="resnet",
        batch=32,
        batch_source="arXiv 1611.05431, section 4: 256 images on 8 GPUs",
        optimizer="sgd-momentum",
        parameters=88_791_336,
        parameters_source=_TORCHVISION,
        forward_macs=16.414e9,
        forward_macs_source=_TORCHVISION_MACS,
        paper="Xie et al., Aggregated Residual Transformations, arXiv 1611.05431",
        block="stages.*: grouped bottlenecks, 3, 4, 23, 3 (the first of a stage differs)",
    ),
    ZooEntry(
        name="vgg16",
        task="image classification, ImageNet-1k, 224 x 224",
        module="vgg",
        batch=64,
        batch_source="arXiv 1409.1556, sections 3.1 and 3.3: 256 images on 4 GPUs",
        optimizer="sgd-momentum",
        parameters=138_357_544,
        parameters_source=_TORCHVISION,
        forward_macs=15.47e9,
        forward_macs_source=_TORCHVISION_MACS,
        paper="Simonyan and Zisserman, Very Deep Convolutional Networks, arXiv 1409.1556",
        block="stages: 3x3 convolutions, 2 or 3 per stage",
    ),
    ZooEntry(
        name="gnmt",
        task="translation, teacher forcing, label smoothing 0.1",
        module="recurrent",
        batch=128,
        batch_source="NVIDIA DeepLearningExamples GNMT v2: 128 sentences per GPU, at most 50 tokens",
        seq_len=50,
        optimizer="adam",
        parameters=160_671_297,
        parameters_source="NVIDIA apex, benchmarks of its optimizers: 'MLPerf GNMT has 160671297 parameters'",
        paper="Wu et al., Google's Neural Machine Translation System, arXiv 1609.08144; MLPerf training v0.5 to v0.7",
        block="encoder.layers and decoder.layers: LSTM layers, 2 and 3",
        notes="sentences fill their length, so nothing is packed or masked",
    ),
    ZooEntry(
        name="bert-base",
        task="pre-training: masked tokens and next sentence",
        module="bert",
        batch=16,
        batch_source="arXiv 1810.04805, appendix A.2: 256 sequences on 16 TPU chips",
        seq_len=512,
        optimizer="adamw",
        parameters=110_106_428,
        parameters_source=f"{_TRANSFORMERS}: BertForPreTraining, default configuration; the paper has 110 M",
        paper="Devlin et al., BERT, arXiv 1810.04805",
        block="layers: encoder layers, 12",
        notes="the token head runs over all positions, not over the 15 % masked ones",
    ),
    ZooEntry(
        name="bert-large",
        task="pre-training: masked tokens and next sentence",
        module="bert",
        batch=4,
        batch_source="arXiv 1810.04805, appendix A.2: 256 sequences on 64 TPU chips",
        seq_len=512,
        optimizer="adamw",
        parameters=336_226_108,
        parameters_source=f"{_TRANSFORMERS}: BertForPreTraining, 24 layers of 1024; the paper has 340 M",
        paper="Devlin et al., BERT, arXiv 1810.04805",
        block="layers: encoder layers, 24",
        notes="the token head runs over all positions, not over the 15 % masked ones",
    ),
    ZooEntry(
        name="opt-1.3b",
        task="next token",
        module="gpt",
        batch=2,
        batch_source=_ASSUMPTION,
        seq_len=2048,
        optimizer="adamw",
        parameters=1_315_758_080,
        parameters_source=f"{_TRANSFORMERS}: OPTForCausalLM, 24 layers of 2048",
        paper="Zhang et al., OPT, arXiv 2205.01068",
        block="layers: decoder layers, 24",
    ),
    ZooEntry(
        name="gpt2-xl",
        task="next token",
        module="gpt",
        batch=2,
        batch_source=_ASSUMPTION,
        seq_len=1024,
        optimizer="adamw",
        parameters=1_557_611_200,
        parameters_source=f"{_TRANSFORMERS}: GPT2LMHeadModel, 48 layers of 1600; the paper has 1542 M",
        paper="Radford et al., Language Models are Unsupervised Multitask Learners, 2019",
        block="layers: decoder layers, 48",
    ),
    ZooEntry(
        name="gpt3-175b",
        task="next token",
        module="gpt",
        batch=1,
        batch_source=f"{_ASSUMPTION}; as in Megatron-LM, arXiv 2104.04473",
        seq_len=2048,
        optimizer="adamw",
        parameters=174_604_259_328,
        parameters_source=f"{_TRANSFORMERS}: GPT2LMHeadModel, 96 layers of 12288, context 2048; the paper has 175 B",
        paper="Brown et al., Language Models are Few-Shot Learners, arXiv 2005.14165",
        block="layers: decoder layers, 96",
        notes="all layers attend densely; dropout 0.1 as in GPT-2, the paper states none",
    ),
    ZooEntry(
        name="resnet50",
        task="image classification, ImageNet-1k, 224 x 224",
        module="resnet",
        batch=32,
        batch_source="torchvision reference recipe: 32 images per GPU",
        optimizer="sgd-momentum",
        parameters=25_557_032,
        parameters_source=_TORCHVISION,
        forward_macs=4.089e9,
        forward_macs_source=_TORCHVISION_MACS,
        paper="He et al., Deep Residual Learning, arXiv 1512.03385",
        block="stages.*: bottlenecks, 3, 4, 6, 3 (the first of a stage differs)",
        notes="stride in the 3x3 convolution (v1.5)",
    ),
    ZooEntry(
        name="vit-l16",
        task="image classification, ImageNet-1k, 224 x 224",
        module="vit",
        batch=32,
        batch_source="assumption: activations and optimizer state within 16 GB",
        optimizer="adamw",
        parameters=304_326_632,
        parameters_source=_TORCHVISION,
        forward_macs=61.555e9,
        forward_macs_source=_TORCHVISION_MACS,
        paper="Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv 2010.11929",
        block="layers: encoder layers, 24",
    ),
    ZooEntry(
        name="t5-base",
        task="pre-training: span corruption, 114 target tokens per 512 of input",
        module="t5",
        batch=16,
        batch_source="assumption: activations and optimizer state within 16 GB",
        seq_len=512,
        optimizer="adamw",
        parameters=222_903_552,
        parameters_source=f"{_TRANSFORMERS}: T5ForConditionalGeneration, 12 layers of 768; the paper has 220 M",
        paper="Raffel et al., Exploring the Limits of Transfer Learning, arXiv 1910.10683",
        block="encoder.layers and decoder.layers, 12 each",
        notes="the paper trains with Adafactor, whose torch form reads values on the host",
    ),
    ZooEntry(
        name="llama2-7b",
        task="next token",
        module="llama",
        batch=1,
        batch_source=_ASSUMPTION,
        seq_len=4096,
        optimizer="adamw",
        parameters=6_738_415_616,
        parameters_source=f"{_TRANSFORMERS}: LlamaForCausalLM, default configuration",
        paper="Touvron et al., Llama 2, arXiv 2307.09288",
        block="layers: decoder layers, 32",
    ),
    ZooEntry(
        name="llama3-8b",
        task="next token",
        module="llama",
        batch=1,
        batch_source=_ASSUMPTION,
        seq_len=8192,
        optimizer="adamw",
        parameters=8_030_261_248,
        parameters_source=f"{_TRANSFORMERS}: LlamaForCausalLM, 32 layers of 4096, 8 key-value heads",
        paper="Llama team, The Llama 3 Herd of Models, arXiv 2407.21783",
        block="layers: decoder layers, 32",
    ),
    ZooEntry(
        name="llama3-70b",
        task="next token",
        module="llama",
        batch=1,
        batch_source=_ASSUMPTION,
        seq_len=8192,
        optimizer="adamw",
        parameters=70_553_706_496,
        parameters_source=f"{_TRANSFORMERS}: LlamaForCausalLM, 80 layers of 8192, 8 key-value heads",
        paper="Llama team, The Llama 3 Herd of Models, arXiv 2407.21783",
        block="layers: decoder layers, 80",
    ),
    ZooEntry(
        name="mixtral-8x7b",
        task="next token",
        module="moe",
        batch=1,
        batch_source="assumption: one microbatch",
        seq_len=4096,
        optimizer="adamw",
        parameters=46_702_792_704,
        parameters_source=f"{_TRANSFORMERS}: MixtralForCausalLM, default configuration; the paper has 47 B",
        paper="Jiang et al., Mixtral of Experts, arXiv 2401.04088",
        block="layers: decoder layers, 32",
        notes="4096 of the 32768 tokens of context; expert capacity factor 1 (docs/zoo.md); no balancing loss",
    ),
    ZooEntry(
        name="dlrm",
        task="click prediction, Criteo Kaggle",
        module="recommendation",
        batch=2048,
        batch_source="arXiv 1906.00091, section 5.2: 2048 samples",
        optimizer="sgd",
        parameters=540_677_217,
        parameters_source="arXiv 1906.00091, section 5.1, about 540 M; exact: 16 x 33,762,577 table rows and "
        "155,984 + 320,001 in the perceptrons",
        paper="Naumov et al., Deep Learning Recommendation Model, arXiv 1906.00091",
        block="tables: embedding bags, 26, all of different length",
        notes="table gradients are dense",
    ),
    ZooEntry(
        name="sd-unet",
        task="noise prediction on 64 x 64 latents (512 x 512 pixels)",
        module="diffusion",
        batch=4,
        batch_source="Stable Diffusion v1 model card: 32 nodes x 8 GPUs x 2 accumulations x 4",
        optimizer="adamw",
        parameters=859_520_964,
        parameters_source="diffusers: UNet2DConditionModel of stable-diffusion-v1-5, example of num_parameters",
        forward_macs=401.637e9,
        forward_macs_source="diffusers 0.42.1, the same configuration under the FLOP counter of torch 2.13",
        paper="Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752",
        block="down.* and up.*: residual and transformer blocks, 2 and 3 per level, widths differ",
    ),
)
