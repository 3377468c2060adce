"""Which model suits what is to be learnt: what its name and configuration say of it, held against what is needed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

ANY = "*"
# The six languages that nearly every multilingual model was trained in.
_WESTERN = ("en", "de", "fr", "it", "pt", "es")


@dataclass(frozen=True)
class Family:
    """Models of one maker and generation. languages: codes of ISO 639-1 that it was trained in, ANY for about all."""

    name: str
    pattern: re.Pattern[str]
    licence: str
    languages: tuple[str, ...]
    code: bool = False


def _family(name: str, pattern: str, licence: str, languages: Sequence[str], *, code: bool = False) -> Family:
    return Family(name, re.compile(pattern, re.IGNORECASE), licence, tuple(languages), code)


# As their makers' cards say it; the first that fits a name counts.
FAMILIES: tuple[Family, ...] = (
    _family("SmolLM2", r"smollm[-_ ]?2", "apache-2.0", ("en",)),
    _family("SmolLM3", r"smollm[-_ ]?3", "apache-2.0", _WESTERN, code=True),
    _family("DeepSeek-R1 distilled", r"deepseek.*distill", "mit", ("en", "zh"), code=True),
    _family("Qwen3", r"qwen[-_ ]?3", "apache-2.0", (ANY,), code=True),
    _family("Qwen2.5", r"qwen[-_ ]?2\.?5.*\b3b\b", "qwen-research", (ANY,), code=True),
    _family("Qwen2.5", r"qwen[-_ ]?2\.?5.*\b72b\b", "qwen", (ANY,), code=True),
    _family("Qwen2.5", r"qwen[-_ ]?2\.?5", "apache-2.0", (ANY,), code=True),
    _family("Llama 3.2", r"llama[-_ ]?3\.2", "llama3.2", (*_WESTERN, "hi", "th")),
    _family("Llama 3.3", r"llama[-_ ]?3\.3", "llama3.3", (*_WESTERN, "hi", "th"), code=True),
    _family("Llama 3.1", r"llama[-_ ]?3\.1", "llama3.1", (*_WESTERN, "hi", "th"), code=True),
    _family("Llama 3", r"llama[-_ ]?3", "llama3", ("en",)),
    _family("TinyLlama", r"tiny[-_ ]?llama", "apache-2.0", ("en",)),
    _family("Llama 2", r"llama[-_ ]?2", "llama2", ("en",)),
    _family("Gemma 3", r"gemma[-_ ]?3.*\b(?:270m|1b)\b", "gemma", ("en",)),
    _family("Gemma 3", r"gemma[-_ ]?3", "gemma", (ANY,), code=True),
    _family("Gemma 2", r"gemma[-_ ]?2", "gemma", ("en",)),
    _family("Phi", r"\bphi[-_ ]?\d", "mit", ("en",), code=True),
    _family("Mistral", r"mistral|ministral", "apache-2.0", _WESTERN, code=True),
)
_UNKNOWN = Family("", re.compile(""), "", ())
# What a part of a name says. The first that fits counts: a vision model may be an instruct one too.
_VARIANTS = (
    ("embedding", r"embed|rerank|sentence"),
    ("vision", r"(?<![a-z])(?:vl|vision|llava|omni|ocr|vlm)(?![a-z])|smolvlm|pixtral"),
    ("speech", r"whisper|audio|asr|tts"),
    ("code", r"coder|code(?![a-z])|starcoder"),
    ("reasoning", r"(?<![a-z0-9])(?:r1|qwq|thinking|reason(?:ing|er)?)(?![a-z0-9])"),
    ("instruct", r"(?<![a-z])(?:instruct|it|chat|sft|dpo|assistant)(?![a-z])"),
    ("base", r"(?<![a-z])(?:base|pt|pretrain(?:ed)?)(?![a-z])"),
)
_STORED = (
    ("mlx", r"(?<![a-z])mlx(?![a-z])"),
    ("gptq", r"gptq"),
    ("awq", r"awq"),
    ("bnb-4bit", r"bnb|bitsandbytes|nf4"),
    ("fp8", r"fp8"),
)
_GGUF = re.compile(
    r"(?<![a-z0-9])(i?q\d(?:_(?:k(?:_(?:s|m|l|xl))?|\d|xs|xxs|nl|s|m))?|bf16|f16|f32)(?![a-z0-9])", re.IGNORECASE
)
_SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z0-9])", re.IGNORECASE)
# Such families put the chat variant under the plain name.
_CHAT_BY_DEFAULT = re.compile(r"qwen[-_ ]?3|gpt-oss|smollm[-_ ]?3", re.IGNORECASE)


@dataclass(frozen=True)
class Identity:
    """What a model is, as name and configuration say it. params: 0 where they don't; stored: "" for plain weights."""

    name: str
    family: str
    variant: str
    params: int
    stored: str
    licence: str
    context_tokens: int
    languages: tuple[str, ...]
    code: bool

    @property
    def trainable(self) -> bool:
        """Whether its weights are such as can be trained on."""
        return self.stored not in ("mlx", "gptq", "awq", "bnb-4bit", "fp8") and self.variant not in (
            "embedding",
            "speech",
        )


def identify(name: str, config: Mapping[str, Any] | None = None, *, licence: str = "") -> Identity:
    """Return what a hub id, folder or file name says of a model, with the facts of its config.json where there is one.

    licence: as it stands beside the model; where it is not known, that of the family.
    """
    config = config or {}
    short = name.rstrip("/").rpartition("/")[2]
    plain = short.removesuffix(".gguf")
    family = next((one for one in FAMILIES if one.pattern.search(plain)), _UNKNOWN)
    variant = next((kind for kind, pattern in _VARIANTS if re.search(pattern, plain, re.IGNORECASE)), "")
    if "vision_config" in config:
        variant = "vision"
    if not variant:
        variant = "instruct" if _CHAT_BY_DEFAULT.search(plain) else "base"
    stored = next((kind for kind, pattern in _STORED if re.search(pattern, plain, re.IGNORECASE)), "")
    if isinstance(held := config.get("quantization_config"), Mapping):
        stored = str(held.get("quant_method", "")) or stored
    if (found := _GGUF.search(plain)) is not None and (name.endswith(".gguf") or "gguf" in name.lower()):
        stored = found[1].upper()
    size = _SIZE.search(plain.replace("_", "-"))
    params = round(float(size[1]) * (10**9 if size[2].lower() == "b" else 10**6)) if size else 0
    inner = config.get("text_config", config)
    context = int(inner.get("max_position_embeddings") or 0) if isinstance(inner, Mapping) else 0
    return Identity(
        name, family.name, variant, params, stored, licence or family.licence, context, family.languages,
        family.code or variant == "code",
    )  # fmt: skip


@dataclass(frozen=True)
class Needs:
    """What is asked of a model. form: "chat", "text" or "" where that is open; hard: one of TASKS, or ""."""

    languages: tuple[str, ...] = ()
    code: bool = False
    images: bool = False
    form: str = ""
    hard: str = ""
    rows: int = 0
    longest_tokens: int = 0


# How many weights a kind of task wants, in words and number: where fewer do, answers are in the form and wrong.
TASKS: Mapping[str, tuple[int, str]] = {
    "form": (0, "a form, a style or classes are learnt by the smallest"),
    "facts": (300_000_000, "facts in free conversation want some 300 million weights"),
    "reasoning": (1_000_000_000, "reasoning and code want a billion weights"),
}
_LANGUAGES = {
    "de": r"german|deutsch", "fr": r"french|fran[cç]ais", "es": r"spanish|espa[nñ]ol", "it": r"italian|italiano",
    "pt": r"portuguese|portugu[eê]s", "nl": r"dutch|nederlands", "pl": r"polish|polski", "ru": r"russian|русск",
    "uk": r"ukrainian|україн", "zh": r"chinese|mandarin|中文", "ja": r"japanese|日本語", "ko": r"korean|한국어",
    "ar": r"arabic|العربية", "hi": r"hindi|हिन्दी", "tr": r"turkish|t[uü]rk[cç]e", "sv": r"swedish|svenska",
    "th": r"thai|ไทย", "vi": r"vietnamese|ti[eế]ng vi[eệ]t", "en": r"english",
}  # fmt: skip
_CODE = re.compile(r"\b(?:code|coding|program|sql|python|javascript|java|rust|bash|shell|regex|functions?)\b", re.I)
_IMAGES = re.compile(r"\b(?:images?|photos?|pictures?|screenshots?|scans?|bilder?|fotos?)\b", re.I)
_REASONING = re.compile(r"\b(?:reason|math|maths|arithmetic|calculat\w+|prove|plan|steps?|agents?|tools?)\b", re.I)
_FORM = re.compile(
    r"\b(?:classif\w+|label\w*|categor\w+|extract\w*|json|template|format|form|style|tone|sentiment|intent|tag\w*|rewrite)\b",
    re.I,
)
_TEXT = re.compile(r"\b(?:continue|complete|autocomplete|novel|stories|poems?|lyrics|books?|corpus|documents?)\b", re.I)


def needs_of(goal: str) -> Needs:
    """Return what a goal, in the user's words, asks of a model. Words that tell nothing leave it open."""
    spoken = tuple(code for code, pattern in _LANGUAGES.items() if re.search(rf"(?<!\w)(?:{pattern})", goal, re.I))
    code = _CODE.search(goal) is not None
    hard = "facts"
    if _FORM.search(goal):
        hard = "form"
    if code or _REASONING.search(goal):
        hard = "reasoning"
    form = "text" if _TEXT.search(goal) and not re.search(r"answer|question|chat|ask", goal, re.I) else ""
    return Needs(spoken, code, _IMAGES.search(goal) is not None, form, hard)


def misfits(model: Identity, needs: Needs) -> list[str]:
    """Return why a model does not suit, each a sentence; none where it does."""
    found = []
    if not model.trainable:
        what = f"stored as {model.stored}" if model.stored else f"made for {model.variant}"
        found.append(f"it is {what} and can't be trained here")
    if needs.images and model.variant != "vision":
        found.append("it sees no images")
    if needs.images and model.variant == "vision":
        found.append("only its words can be trained here, not what it sees")
    missing = [code for code in needs.languages if ANY not in model.languages and code not in model.languages]
    if missing and model.languages:
        found.append(f"it was not trained in {', '.join(missing)}")
    if needs.code and not model.code:
        found.append("it has seen little code")
    least, why = TASKS.get(needs.hard, (0, ""))
    if model.params and model.params < least:
        found.append(f"{why}; it has {model.params / 1e6:,.0f} million")
    if needs.longest_tokens and model.context_tokens and needs.longest_tokens > model.context_tokens:
        found.append(f"the longest row has {needs.longest_tokens:,} tokens, its context {model.context_tokens:,}")
    if needs.form == "chat" and model.variant == "base":
        found.append(
            "a base model answers nobody yet: for some hundred rows take its instruct variant, which has a template"
        )
    if needs.form == "text" and model.variant in ("instruct", "reasoning"):
        found.append("text alone makes an instruct model forget how to answer: take the base variant, or mix in chats")
    return found


def wanted(needs: Needs) -> str:
    """Return in words which variant suits, and why."""
    if needs.images:
        return "a vision model; fledge trains what it says, not what it sees"
    if needs.form == "text":
        return "base: text teaches what to know and how it sounds, and a base model has nothing to forget"
    rows = f", and {needs.rows:,} rows do" if 0 < needs.rows < 10_000 else ""
    coded = ", one for code where there is one" if needs.code else ""
    return f"instruct{coded}: it answers already and has a template, so rows need teach only what is new{rows}"


def joined(given: Needs, seen: Needs) -> Needs:
    """Return what a goal says, and what the data say where the goal is silent."""
    return replace(
        given,
        languages=given.languages or seen.languages,
        code=given.code or seen.code,
        form=given.form or seen.form,
        rows=seen.rows,
        longest_tokens=seen.longest_tokens,
    )
