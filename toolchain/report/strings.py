"""The words of the reports: every text once, in English and in Chinese, side by side."""

from __future__ import annotations

from toolchain.report.page_strings import PAGE_NAMES_EN, PAGE_NAMES_ZH, PAGE_TEXTS
from toolchain.report.search_strings import SEARCH_TEXTS

LANGUAGES = ("en", "zh-CN")

_TEXTS: dict[str, tuple[str, str]] = {
    **PAGE_TEXTS,
    **SEARCH_TEXTS,
    "title": ("{model} for {target}", "{model}：适用于 {target}"),
    "summary": (
        "**{verdict}** {type}, {size}, {bits} bits per weight, for {title}.",
        "**{verdict}** {type}，{size}，每权重 {bits} 位，适用于{title}。",
    ),
    "all_passed": ("All gates passed.", "所有检查均通过。"),
    "some_failed": ("Outside the budget: {names}.", "超出预算：{names}。"),
    "no_gates": ("No gate was run.", "未进行任何检查。"),
    "log_note": (
        "What depends on the machine (speed, memory, time) is in `log/smoke.md` after a smoke "
        "test, and in `log/devices.md` after tests on devices; SHA256SUMS covers every file but "
        "itself and `log/`.",
        "与机器有关的结果（速度、内存、时间）在冒烟测试后写入 `log/smoke.md`，"
        "在设备上测试后写入 `log/devices.md`；"
        "SHA256SUMS 覆盖除其自身和 `log/` 以外的所有文件。",
    ),
    "before_after": ("Before and after", "前后对比"),
    "before_note": (
        "Columns: the model after each of these stages, and last the file in this bundle.",
        "各列为经过相应阶段后的模型；最后一列为本部署包中的文件。",
    ),
    "guessing": (
        "**These figures tell little:** before any change the perplexity on {name} was "
        "{perplexity}, little better than guessing among the model's {tokens} tokens. Give text of "
        "the kind that the model was made for: recipe keys `export.calibration` and "
        "`evaluate.text`.",
        "**这些数值参考意义不大：**改动前模型在 {name} 上的困惑度为 {perplexity}，"
        "几乎等同于在 {tokens} 个词元中随机猜测。请提供与该模型训练内容相近的文本："
        "配方键 `export.calibration` 与 `evaluate.text`。",
    ),
    "task_data": ("held-out rows of the data", "数据中的留出样本"),
    "task_checkpoint": ("the checkpoint's own task", "检查点自带任务"),
    "answers": ("Answers before and after", "前后回答"),
    "answers_columns": ("prompt | reference | before | after", "提示 | 参考答案 | 之前 | 之后"),
    "pruning": ("Pruning", "剪枝"),
    "pruning_columns": ("| before | after | change", "| 之前 | 之后 | 变化"),
    "pruning_decode_expected": (
        "decode, tokens/s, expected on {target}",
        "解码，token/s，{target} 上的预期",
    ),
    "pruning_decode_measured": (
        "decode, tokens/s, measured where it was built",
        "解码，token/s，构建机器上实测",
    ),
    "pruning_shape": ("Shape: {before} → {after}.", "结构：{before} → {after}。"),
    "pruning_speed": (
        "Decoding reads every weight once per token, so where memory bandwidth is the limit it is "
        "{factor} times as fast; the smoke test measures what it is here.",
        "解码时每个 token 读取全部权重一次，因此在受内存带宽限制时，速度约为原来的 {factor} 倍；"
        "实际速度由冒烟测试测得。",
    ),
    "students": ("Fresh student", "新建的学生模型"),
    "student_columns": ("| teacher | student | change", "| 教师 | 学生 | 变化"),
    "student_kept": (
        "It was cut out of the teacher: of its layers, counted from 0, {layers} stay. {tokens} "
        "tokens of the calibration text said what matters most.",
        "学生模型由教师裁剪而成：保留教师的第 {layers} 层（从 0 开始编号）；"
        "哪些部分最重要由校准文本的 {tokens} 个 token 决定。",
    ),
    "teacher_caches": ("Teacher cache", "教师缓存"),
    "teacher_cache_holds": (
        "The student learned from what the teacher had written down: its {top_k} likeliest tokens "
        "at each of {places} places, {size} in all, {each} bytes a place.",
        "学生模型从教师事先写入的缓存中学习：{places} 个位置，每个位置保留概率最高的 {top_k} 个 "
        "token，共 {size}，每个位置 {each} 字节。",
    ),
    "distilled": (
        "A student of {student} parameters learned from a teacher of {teacher}. Decoding reads "
        "every weight once per token, so where memory bandwidth is the limit the student is "
        "{factor} times as fast; the smoke test measures what it is here.",
        "参数量为 {student} 的学生模型向参数量为 {teacher} 的教师模型学习。"
        "解码时每个 token 读取全部权重一次，因此在受内存带宽限制时，学生模型的速度约为教师的 "
        "{factor} 倍；实际速度由冒烟测试测得。",
    ),
    "vocabulary_cut": ("Vocabulary", "词表"),
    "vocabulary_equal": (
        "Proven on the kept text: {equal} documents have the same tokens as before, {changed} have "
        "others (tokens rarer than min_count went).",
        "已在保留文本上验证：{equal} 篇文档的 token 与之前相同，{changed} 篇不同"
        "（出现次数低于 min_count 的 token 已移除）。",
    ),
    "vocabulary_cost": (
        "On text held out, {gone} % of the tokens are no longer in the vocabulary and are written "
        "with smaller ones: {before} → {after} tokens ({more} %).",
        "在留出文本上，{gone} % 的 token 已不在词表中，改由更小的 token 拼写："
        "{before} → {after} 个 token（{more} %）。",
    ),
    "vocabulary_unknown": (
        "**Warning:** {count} places of the held-out text can no longer be written and become the "
        "unknown token.",
        "**警告：** 留出文本中有 {count} 处无法再表示，变为未知 token。",
    ),
    "advice_case": (
        "{model} ({kind}, {parameters} M parameters) for {target}, a device of kind {device}",
        "{model}（{kind}，{parameters} M 参数），目标 {target}，设备类型 {device}",
    ),
    "advice_said": ("case:    {answers}", "情况：{answers}"),
    "advice_assumed": ("assumed: {answers}", "假定：{answers}"),
    "advice_none": (
        "No option has more for it than against it in this case.",
        "在此情况下没有合适的方案。",
    ),
    "advice_row": ("{rank}. {title} (score {score})", "{rank}. {title}（得分 {score}）"),
    "advice_why": ("why", "理由"),
    "advice_but": ("but", "但是"),
    "advice_cost": ("costs", "代价"),
    "advice_expect": ("expect", "预期"),
    "advice_run": ("run", "命令"),
    "advice_hours": (
        "training: about {hours} h on {hardware}, by operations ({source})",
        "训练：在 {hardware} 上约 {hours} 小时，按运算量估算（{source}）",
    ),
    "advice_estimate": (
        "estimated for this model: {type}, file {size}, memory {memory}, {speed} tokens/s",
        "对该模型的估算：{type}，文件 {size}，内存 {memory}，{speed} token/s",
    ),
    "advice_unfit": (
        "estimated: with this recipe as it is it still does not fit; raise prune.ratio, or take "
        "a smaller model",
        "估算：按此配方仍放不下；请提高 prune.ratio，或选用更小的模型",
    ),
    "advice_built": (
        "measured in {folder}: {model} for {target}, {type}, {size}{figures}",
        "实测（{folder}）：{model}，目标 {target}，{type}，{size}{figures}",
    ),
    "advice_docs": ("from this project's {source}: {figure}", "本项目 {source}：{figure}"),
    "advice_published": ("published, {source}: {figure}", "文献（{source}）：{figure}"),
    "advice_against": ("Not advised:", "不建议："),
    "advice_impossible": ("Would help, but is not possible here:", "有帮助，但此处无法进行："),
    "advice_needs": ("needs {needs}", "需要{needs}"),
    "advice_too_long": (
        "takes about {hours} h of training on {hardware}, more than --hours {limit}",
        "在 {hardware} 上训练约需 {hours} 小时，超过 --hours {limit}",
    ),
    "advice_memory": (
        "training memory: about {size} and the activations",
        "训练内存：约 {size}，另加激活值",
    ),
    "advice_too_large": (
        "its training takes about {size} and the activations, more than --training-gib {limit}",
        "训练约需 {size}，另加激活值，超过 --training-gib {limit}",
    ),
    "advice_notes": ("Notes:", "说明："),
    "advice_end": (
        "Estimates are arithmetic; the build measures and stops at the target's quality budget.",
        "估算仅为计算值；构建时会实际测量，并遵守目标的质量预算。",
    ),
    "sparsity": ("Zeros", "稀疏"),
    "sparsity_dense": (
        "GGUF and ONNX store zeros like any other weight: this file is neither smaller nor faster "
        "by them. A runtime with sparse kernels could store the layers' weights in {bitmap} "
        "(a bitmap and the rest) instead of {dense}, in the checkpoint's type.",
        "GGUF 和 ONNX 按普通权重存储零：文件不会因此变小，解码也不会因此变快。"
        "带稀疏内核的运行时可将各层权重（位图加非零值，按检查点的数据类型）"
        "从 {dense} 存为 {bitmap}。",
    ),
    "mixed": ("Types chosen for each tensor", "逐张量选择的类型"),
    "mixed_columns": (
        "tensors of each type | bits per weight | KLD predicted | KLD measured | gap to optimum",
        "各类型的张量数 | 每权重位数 | 预测 KLD | 实测 KLD | 与最优解的差距",
    ),
    "mixed_exact": ("none: exact", "无：精确解"),
    "mixed_gap": ("at most {gap} %", "至多 {gap} %"),
    "mixed_note": (
        "Of all choices of this size, this one has the least sum of the KLDs that each tensor "
        "costs by itself on calibration text (predicted). Measured is the file, on held-out text.",
        "在此大小的所有方案中，该方案各张量单独量化的 KLD（以校准文本测得）之和最小，即预测值；"
        "实测值是文件在留出文本上的 KLD。",
    ),
    "mixed_plain": (
        "Plain {type}, of the same size: {kld} predicted in the same way.",
        "同样大小的普通 {type}：以同样方式预测为 {kld}。",
    ),
    "mixed_speed": (
        "Decoding was to take no longer than that of plain {type}, by measured costs of types.",
        "按实测的各类型开销，解码耗时不超过普通 {type}。",
    ),
    "exact": ("Blocks of its own", "专用量化块"),
    "exact_columns": (
        "text | kind | tokens | KLD plain, with imatrix | KLD own blocks | ratio | top-1 agreement",
        "文本 | 类型 | token 数 | 普通量化（含 imatrix）KLD | 专用块 KLD | 比值 | top-1 一致率",
    ),
    "exact_near": ("held out, of the kinds learned from", "留出文本，与所学文本同类"),
    "exact_far": ("another kind", "其他类型"),
    "exact_kept_exact": (
        "The file holds the very {type} blocks that were {made}, proven bit by bit. KLD is to the "
        "unquantized model, computed with the weights of either file.",
        "文件中的 {type} 块就是{made}所得的块，已逐位验证。KLD 相对于未量化的模型，"
        "分别用两种文件中的权重计算。",
    ),
    "exact_kept_scaled": (
        "The weights were {made} before they became {type}: the same function, rounded with less "
        "loss. KLD is to the unquantized model, computed with the weights of either file.",
        "权重在量化为 {type} 之前已{made}：函数不变，取整损失更小。"
        "KLD 相对于未量化的模型，分别用两种文件中的权重计算。",
    ),
    "exact_made_distill": ("trained (quantization-aware distillation)", "训练（量化感知蒸馏）"),
    "exact_made_gptq": ("rounded by calibration (GPTQ)", "按校准文本取整（GPTQ）"),
    "exact_made_awq": ("given other scales (AWQ)", "调整通道尺度（AWQ）"),
    "exact_kept_plain": (
        "**Plain {type} is kept**, because the blocks that were {made} lose more than it does on "
        "one of these texts: learn longer, or from more kinds of text.",
        "**保留普通 {type}**：{made}所得的块在其中一种文本上损失更大。"
        "请延长学习，或使用更多类型的文本。",
    ),
    "training": ("Training", "训练"),
    "figures_columns": ("figure | value", "指标 | 数值"),
    "loss_curve": ("loss curve", "损失曲线"),
    "gates": ("Is it the same model?", "是否仍是同一个模型？"),
    "gates_columns": ("gate | figure | limit | | detail", "检查项 | 数值 | 界限 | | 说明"),
    "evaluated_on": (
        "Logits, perplexity and KLD: {scored_tokens} tokens of {name}, held out, at most "
        "{max_tokens}, context {context_tokens}, seed {seed}.",
        "logits、困惑度与 KLD：取自留出文本 {name} 的 {scored_tokens} 个 token"
        "（上限 {max_tokens}），上下文 {context_tokens}，随机种子 {seed}。",
    ),
    "tried": ("Candidates", "候选量化类型"),
    "tried_columns": (
        "type | size | bits/weight | mean KLD | task score | verdict | reason",
        "类型 | 大小 | 位/权重 | 平均 KLD | 任务得分 | 结果 | 原因",
    ),
    "tried_figures": ("type | size … verdict | reason", "类型 | 大小 … 结果 | 原因"),
    "types": ("Tensor types", "张量类型"),
    "types_columns": ("intended | in the file | tensors", "预期 | 文件中 | 张量数"),
    "no_fallback": ("No tensor fell back to another type.", "没有张量退回到其他类型。"),
    "fallback": (
        "**Warning:** {count} tensors fell back to a larger type because their rows "
        "(of {columns} values) are no multiple of the block length (256 for K-quants, 32 for Q4_0 "
        "and Q8_0). Mend: snap these widths to multiples of 256 when the model is made or pruned.",
        "**警告：** 有 {count} 个张量退回到更大的类型，因为其行长（{columns}）不是块长的整数倍"
        "（K 量化为 256，Q4_0 与 Q8_0 为 32）。"
        "解决办法：在构建或剪枝模型时将这些宽度取为 256 的倍数。",
    ),
    "plan": ("Memory on the target", "目标设备上的内存"),
    "plan_columns": (
        "context | weights | KV cache ({kv}) | compute buffers | total | usable | estimated decode",
        "上下文 | 权重 | KV 缓存（{kv}）| 计算缓冲 | 合计 | 可用 | 预计解码速度",
    ),
    "run": ("How to run it", "如何运行"),
    "run_check": ("prove it on the device", "在设备上验证"),
    "adapter_apart": (
        "The adapter is separate: `{name}` ({size}) goes onto the model when it is loaded. The "
        "figures above are those of both together.",
        "适配器是独立的：`{name}`（{size}）在加载时叠加到模型上。以上数据均为两者结合的结果。",
    ),
    "jinja_only": (
        "Ollama: needs version 0.30 or newer, because no template for older ones renders the same: "
        "{reason}",
        "Ollama：需要 0.30 或更新版本，因为没有适用于旧版本且渲染结果相同的模板：{reason}",
    ),
    "provenance": ("Where it comes from", "来源"),
    "provenance_columns": ("what | value", "项目 | 值"),
    "base": ("base checkpoint (digest of {count} files)", "基础检查点（{count} 个文件的摘要）"),
    "file": ("model file (SHA-256)", "模型文件（SHA-256）"),
    "stages": ("stages", "阶段"),
    "versions": ("versions", "版本"),
    "license": ("licence of the model", "模型许可证"),
    "unknown": ("unknown: ask whoever made the checkpoint", "未知：请询问检查点的发布者"),
    "passed": ("passed", "通过"),
    "failed": ("**FAILED**", "**未通过**"),
    "chosen": ("chosen", "选用"),
    "passed over": ("passed over", "未选用"),
    "not tried": ("not tried", "未尝试"),
    "no limit": ("no limit", "无界限"),
    "not measured": ("not measured", "未测量"),
    "not tested": ("**not tested**", "**未测试**"),
    "devices": ("Tested on these devices", "已测试的设备"),
    "devices_columns": (
        "device | target | verdict | machine | copied",
        "设备 | 目标 | 结果 | 机器 | 已复制",
    ),
    "device_advice": ("advice", "建议"),
    "device_missing": ("not measured", "未测量"),
    "device_everything": ("everything", "全部"),
    "smoke": ("Smoke test: {verdict}", "冒烟测试：{verdict}"),
    "smoke_columns": ("check | value | limit | | note", "检查项 | 数值 | 界限 | | 备注"),
    "threads": (
        "Best thread count {best} of {cores} usable cores (the profile asks for {profile}); "
        "decode tokens/s: {rates}.",
        "最佳线程数 {best}（可用核心 {cores}，配置为 {profile}）；解码 tokens/s：{rates}。",
    ),
    "machine": (
        "{cpu}; {engine} {version}; memory bandwidth {bandwidth} GB/s (copy), load per core "
        "{load} before the test. Speed limits scaled: decode × {decode}, prefill × {prefill}.",
        "{cpu}；{engine} {version}；内存带宽 {bandwidth} GB/s（拷贝），测试前每核负载 {load}。"
        "速度界限缩放：解码 × {decode}，预填充 × {prefill}。",
    ),
}

# Names of gates and of the smoke test's checks.
_NAMES_ZH = {
    **PAGE_NAMES_ZH,
    "token ids": "token id",
    "chat prompt": "对话提示",
    "stop tokens": "停止 token",
    "logits top-1 agreement": "logits top-1 一致率",
    "logits mean KLD": "logits 平均 KLD",
    "perplexity": "困惑度",
    "mean KLD": "平均 KLD",
    "99th percentile KLD": "KLD 第 99 百分位",
    "top-1 agreement": "top-1 一致率",
    "task score": "任务得分",
    "task score kept": "任务得分保留率",
    "exact_match": "完全匹配",
    "size_ratio": "大小（相对 FP32）",
    "prefill_ratio": "预填充加速比",
    "decode_ratio": "解码加速比",
    "mix_ratio": "综合加速比",
    "speed_ratio": "加速比",
    "agreement": "一致率",
    "cosine_mean": "平均余弦",
    "cosine_min": "最小余弦",
    "same_nearest": "最近邻一致率",
    "f1": "F1",
    "accuracy": "准确率",
    "macro_f1": "宏平均 F1",
    "checkpoint": "原检查点",
    "prune": "剪枝后",
    "prune-vocab": "裁剪词表后",
    "vocabulary": "词表大小",
    "weights": "权重",
    "sparsify": "稀疏化后",
    "zero_share": "零权重占各层线性权重的比例",
    "zero_share_of_all": "零权重占全部参数的比例",
    "zero_share_at_the_end": "导出的检查点中仍为零的比例",
    "passes": "步骤",
    "parameters": "参数量",
    "weight_bytes": "权重大小（字节）",
    "file_bytes": "文件大小",
    "bytes_read_per_token": "每 token 读取字节",
    "finetune": "微调后",
    "distill": "蒸馏后",
    "validation_loss_soft": "验证损失：软目标",
    "validation_loss_hard": "验证损失：硬标签",
    "merge": "合并后",
    "trainable_parameters": "可训练参数",
    "trainable_share": "可训练参数占比",
    "train_examples": "训练样本",
    "steps": "步数",
    "tokens_seen": "训练 token 数",
    "final_train_loss": "训练损失",
    "validation_loss": "验证损失",
    "validation_accuracy": "验证准确率",
    "validation_macro_f1": "验证宏平均 F1",
    "kept_step": "保留的步",
    "digests": "文件摘要",
    "load_sec": "加载时间",
    "prompt_token_ids": "提示的 token id",
    "equal_answers": "答案一致",
    "agreeing_prefix": "一致前缀",
    "stop_token": "停止 token",
    "task_score": "任务得分",
    "prefill_tokens_per_sec": "预填充速度",
    "decode_tokens_per_sec": "解码速度",
    "ttft_sec": "首 token 时间",
    "peak_rss_bytes": "峰值内存（RSS）",
    "gpu_memory_bytes": "GPU 内存",
    "power_watts": "功率",
    "joules_per_token": "每 token 能耗",
    "temperature_celsius": "温度",
}


def name_of(name: str, language: str) -> str:
    """A gate's or check's name for readers; one that is not known stays as it is."""
    return name if language == LANGUAGES[0] else _NAMES_ZH.get(name, name)


def spoken_name(name: str, language: str) -> str:
    """The same in words: `peak_rss_bytes` as a person reads it."""
    if language == LANGUAGES[0]:
        return PAGE_NAMES_EN.get(name, name.replace("_", " "))
    return name_of(name, language)


def text(key: str, language: str, **values: object) -> str:
    """A text in a language of `LANGUAGES`, with its values filled in."""
    return _TEXTS[key][LANGUAGES.index(language)].format(**values)


def keys() -> tuple[str, ...]:
    """Names of all texts."""
    return tuple(_TEXTS)
