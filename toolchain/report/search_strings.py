"""The words of a search's report, in English and in Chinese."""

from __future__ import annotations

SEARCH_TEXTS: dict[str, tuple[str, str]] = {
    "search_title": ("Search: {model} on {target}", "搜索：{model}，目标 {target}"),
    "search_found": ("Best: {point}", "最佳：{point}"),
    "search_none": ("Nothing within the budget", "没有满足预算的候选"),
    "search_verdict": (
        "{objective}: {value}; KLD {kld} on the search's text, {held_out} on held-out text.",
        "{objective}：{value}；搜索文本上的 KLD 为 {kld}，留出文本上为 {held_out}。",
    ),
    "search_over": (
        "On the held-out text the best is beyond the limit of {limit}: the two texts differ. "
        "Search again with a lower --max-kld, or take a point of the front with a lower KLD.",
        "最佳候选在留出文本上超过上限 {limit}：两份文本有差异。请降低 --max-kld 重新搜索，"
        "或选用前沿上 KLD 更低的点。",
    ),
    "search_texts": (
        "KLD is to the unquantized original, in nats. Every point was ranked on {ranked}, a part "
        "of the calibration text; importance matrices and pruning saw the other part alone "
        "({made}). The evaluation text ({held}) was read once, for the best, when the search was "
        "over: no trial saw it.",
        "KLD 相对未量化的原模型，单位为 nat。所有候选均在校准文本的一部分（{ranked}）上排名；"
        "重要性矩阵和剪枝只使用另一部分（{made}）。评估文本（{held}）仅在搜索结束后用于最佳候选，"
        "任何试验均未使用。",
    ),
    "search_speeds": (
        "Decode speeds that rank come from: {speed}.",
        "用于排名的解码速度来源：{speed}。",
    ),
    "search_from_planned": (
        "the planner, for the target; they have no noise",
        "规划器对目标设备的估算，无噪声",
    ),
    "search_from_here": (
        "{where}, in turns with one fixed file",
        "{where}，与同一固定文件交替测量",
    ),
    "search_from_device": ("{where}, over SSH", "{where}，通过 SSH"),
    "search_here": (
        "Decode here: measured on this machine ({cpu}, {threads} threads), in turns with one fixed "
        "file.",
        "本机解码：在本机（{cpu}，{threads} 线程）上与同一固定文件交替测量。",
    ),
    "search_counts": (
        "{trials} trials of a space of {space} points: {measured} measured in full, {pruned} "
        "pruned early; {seconds} s.",
        "共 {trials} 次试验，空间含 {space} 个点：完整测量 {measured} 个，提前剪除 {pruned} 个；"
        "用时 {seconds} 秒。",
    ),
    "search_front": ("Pareto front", "帕累托前沿"),
    "search_front_columns": (
        "trial | point | size | memory | KLD | decode, tokens/s | ",
        "试验 | 候选 | 大小 | 内存 | KLD | 解码，token/s | ",
    ),
    "search_here_column": ("decode here", "本机解码"),
    "search_best": ("best", "最佳"),
    "search_beyond": ("beyond the budget", "超出预算"),
    "search_plots": ("Quality against size and speed", "质量与大小、速度"),
    "search_plot_size": ("KLD and file size", "KLD 与文件大小"),
    "search_plot_speed": ("KLD and decode speed", "KLD 与解码速度"),
    "search_axis_size": ("file, MB", "文件，MB"),
    "search_axis_speed": ("decode, tokens/s", "解码，token/s"),
    "search_axis_kld": ("KLD, nats", "KLD，nat"),
    "search_points": ("points tried", "已试候选"),
    "search_front_line": ("front", "前沿"),
    "search_all": ("Every trial", "全部试验"),
    "search_all_columns": (
        "trial | point | size | KLD | decode, tokens/s | pruned because",
        "试验 | 候选 | 大小 | KLD | 解码，token/s | 剪除原因",
    ),
    "search_again": ("Build it", "构建"),
    "search_recipe": (
        "`{recipe}` rebuilds exactly this file; `recipes/` has one for each point of the front.",
        "`{recipe}` 可重建完全相同的文件；`recipes/` 中有前沿上每个点的配方。",
    ),
    "search_unmet": ("What the budget asks", "预算要求"),
    "search_objective_decode": ("decode, tokens/s", "解码速度，token/s"),
    "search_objective_size": ("file size", "文件大小"),
    "search_objective_memory": ("memory on the target", "目标设备内存"),
    "search_objective_kld": ("KLD", "KLD"),
}
