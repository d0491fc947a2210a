"""The words of the whole report and of the ledger, in English and in Chinese."""

from __future__ import annotations

PAGE_TEXTS: dict[str, tuple[str, str]] = {
    "accepted": (
        "Accepted: {passed} checks passed, {open} not measured.",
        "验收通过：{passed} 项通过，{open} 项未测量。",
    ),
    "not_accepted": (
        "Not accepted: {failed} checks failed, {passed} passed, {open} not measured.",
        "验收未通过：{failed} 项未通过，{passed} 项通过，{open} 项未测量。",
    ),
    "summary_line": (
        "{type}, {size}, {bits} bits per weight, for {title}.",
        "{type}，{size}，每权重 {bits} 位，适用于{title}。",
    ),
    "summary_ratio": (
        "{ratio} times smaller than the original.",
        "大小为原模型的 1/{ratio}。",
    ),
    "comparison": ("Original and optimized", "优化前后对比"),
    "comparison_columns": ("| original | optimized | change", "| 原模型 | 优化后 | 变化"),
    "comparison_note": (
        "Memory and decode are the planner's, for the target at a context of {context} tokens; "
        "what is marked as measured comes from the smoke test on the machine named below.",
        "内存与解码速度由规划器按目标设备、上下文 {context} token 估算；"
        "标为实测的数值来自下文所述机器上的冒烟测试。",
    ),
    "parameters": ("parameters", "参数量"),
    "size": ("size of the weights", "权重大小"),
    "bits_per_weight": ("bits per weight", "每权重位数"),
    "planned_memory": ("memory on the target (planned)", "目标设备内存（估算）"),
    "planned_decode": ("decode on the target (planned)", "目标设备解码速度（估算）"),
    "perplexity": ("perplexity", "困惑度"),
    "kld_to_original": ("mean KLD to the original", "相对原模型的平均 KLD"),
    "compression_ratio": ("compression ratio", "压缩比"),
    "compression_ratio_fp32": ("compression ratio against FP32", "压缩比（相对 FP32）"),
    "efficiency": (
        "efficiency: accuracy kept ÷ size × speed",
        "效率：精度保留率 ÷ 大小 × 速度",
    ),
    "measured_here": ("measured", "实测"),
    "original": ("original", "原模型"),
    "ledger": ("Ledger: what every stage cost and gained", "账本：各阶段的代价与收益"),
    "ledger_columns": (
        "after | parameters | size | bits/weight | compression | memory (planned) | perplexity | "
        "KLD to original | change of KLD | task score (kept) | efficiency | time | peak memory | "
        "energy",
        "阶段后 | 参数量 | 大小 | 位/权重 | 压缩比 | 内存（估算） | 困惑度 | "
        "相对原模型 KLD | KLD 变化 | 任务得分（保留率） | 效率 | 用时 | 峰值内存 | "
        "能耗",
    ),
    "ledger_note": (
        "Perplexity and KLD (nats) of all lines are on the same {positions} held-out tokens; "
        "time, peak memory and energy, where shown, are those of the stage itself. Efficiency is 1 "
        "for the original.",
        "各行的困惑度与 KLD（奈特）均在相同的 {positions} 个留出 token 上测得。"
        "所列用时、峰值内存与能耗为该阶段自身的消耗。原模型的效率为 1。",
    ),
    "rolled_back": (
        "Rolled back: stage {stage} broke the budget {budget} (measured {measured}, allowed "
        "{allowed}).",
        "已回退：阶段 {stage} 超出预算 {budget}（实测 {measured}，允许 {allowed}）。",
    ),
    "acceptance": ("Acceptance checklist", "验收清单"),
    "acceptance_columns": (
        "check | where | measured | limit | result",
        "检查项 | 来源 | 实测 | 界限 | 结果",
    ),
    "part_export": ("export", "导出"),
    "part_ledger": ("budget", "预算"),
    "part_smoke": ("smoke test", "冒烟测试"),
    "part_device": ("device", "设备"),
    "smoke_test": ("smoke test", "冒烟测试"),
    "target_device": ("a device of the target", "目标设备"),
    "cliff_title": ("Where quality falls", "质量拐点"),
    "quality_size": ("Quality against size", "质量与大小"),
    "quality_speed": ("Quality against speed", "质量与速度"),
    "size_axis": ("size (MB)", "大小（MB）"),
    "speed_axis": ("planned decode (tokens/s)", "估算解码速度（tokens/s）"),
    "kld_axis": ("KLD to the original (less is better)", "相对原模型的 KLD（越小越好）"),
    "cliff": (
        "The cliff is marked: beyond a KLD of {limit}, the budget, lie {names}.",
        "红色区域为拐点之外：{names} 的 KLD 超出预算 {limit}。",
    ),
    "cliff_none": (
        "Nothing that was measured lies beyond the cliff, a KLD of {limit}.",
        "已测量的模型均未越过拐点（KLD {limit}）。",
    ),
    "cliff_columns": ("model | MB | planned decode | KLD", "模型 | MB | 估算解码速度 | KLD"),
    "latency": ("Latency", "延迟"),
    "ttft_plot": (
        "Time to first token of {count} prompts",
        "{count} 条提示的首 token 时间",
    ),
    "request_latency": ("requests of the benchmark", "基准测试请求"),
    "deployment": ("Deployment check", "部署检查"),
    "smoke_machine": (
        "Smoke test on {machine}, engine {engine} {version}:",
        "冒烟测试：{machine}，引擎 {engine} {version}：",
    ),
    "no_smoke": ("The smoke test was not run.", "未运行冒烟测试。"),
    "no_device": (
        "Not tested on a device yet: edgeforge smoke --host USER@HOST does that.",
        "尚未在设备上测试：edgeforge smoke --host USER@HOST。",
    ),
    "resources": ("Resources while it was built", "构建期间的资源占用"),
    "resources_columns": (
        "stage | time | peak memory | energy | ",
        "阶段 | 用时 | 峰值内存 | 能耗 | ",
    ),
    "memory_plot": ("Memory in use", "内存占用"),
    "cores_plot": ("Busy cores", "占用核心数"),
    "cores": ("cores", "核心"),
    "seconds": ("seconds", "秒"),
    "reused": ("made in an earlier build", "由先前的构建生成"),
    "made_now": ("made in this build", "由本次构建生成"),
    "reproduce": ("How to make it again", "如何复现"),
    "reproduce_note": (
        "The same checkpoint, texts, recipe and versions give the same bytes:",
        "相同的检查点、文本、配方与版本会得到相同的字节：",
    ),
    "reproduce_recipe": ("The recipe, every key:", "完整配方："),
}

# What a person reads for the name of a check; the value has the unit.
PAGE_NAMES_EN = {
    "digests": "file digests",
    "load_sec": "load time",
    "prompt_token_ids": "token ids of the prompts",
    "prefill_tokens_per_sec": "prefill speed",
    "decode_tokens_per_sec": "decode speed",
    "ttft_sec": "time to first token",
    "peak_rss_bytes": "peak memory (RSS)",
    "gpu_memory_bytes": "GPU memory",
    "power_watts": "power",
    "joules_per_token": "energy per token",
    "temperature_celsius": "temperature",
    "max_total_kld": "KLD to the original",
    "min_total_task_share": "task score kept of the original's",
    "max_file_bytes": "size of the file",
    "macro_f1": "macro F1",
}
PAGE_NAMES_ZH = {
    "max_total_kld": "相对原模型的 KLD 上限",
    "min_total_task_share": "任务得分保留率下限（相对原模型）",
    "max_file_bytes": "文件大小上限",
}
