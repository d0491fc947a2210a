"""Requests that no device of the home can serve: chores, questions, unknown devices."""

from __future__ import annotations

ENGLISH: dict[str, tuple[str, ...]] = {
    "order {x}": (
        "a pizza", "some sushi", "flowers", "a taxi", "groceries", "a new phone",
        "two burgers", "cat food", "a salad", "some noodles", "a book", "new shoes",
        "a birthday cake", "ice cream",
    ),
    "book {x}": (
        "a flight to Paris", "a hotel in Rome", "a table for two", "a dentist appointment",
        "train tickets", "a flight to Tokyo", "a massage", "concert tickets",
        "a room in Berlin", "a taxi to the airport", "a haircut", "a tennis court",
        "a doctor's appointment",
    ),
    "call {x}": (
        "my mother", "the police", "Peter", "my boss", "the doctor", "grandma", "a plumber",
        "my sister", "my father", "an ambulance", "Julia", "the school", "the bank",
        "my neighbor",
    ),
    "what is {x}": (
        "the weather like today", "the capital of France", "the time", "your name",
        "two plus two", "the meaning of life", "the price of gold", "the news",
        "the square root of nine", "the best movie of the year", "the population of Japan",
        "a black hole", "my bank balance", "the answer to life", "the fastest animal",
        "the longest river", "love",
    ),
    "tell me {x}": (
        "a joke", "a story", "the time", "who won the game", "about Mars",
        "how tall Everest is", "what the stock price is", "something funny", "a fairy tale",
        "about the Roman Empire", "how magnets work", "a riddle", "my horoscope",
        "what you think",
    ),
    "write {x}": (
        "a poem", "an email to Anna", "a letter", "my homework", "a shopping list",
        "a short story", "some Python code", "a song", "a report", "a birthday card",
        "a speech", "a book about cats",
    ),
    "translate {x} into {y}": ("this sentence", "my letter", "hello", "the menu", "this text"),
    "feed {x}": ("the cat", "the dog", "the fish", "the baby", "the chickens"),
    "cook {x}": ("some pasta", "dinner", "an egg", "soup", "a steak", "rice"),
    "go {x}": ("shopping", "to the post office", "for a walk with the dog", "to school"),
    "turn on {u}": ("@",),
    "turn off {u}": ("@",),
    "start {u}": ("@",),
    "set {u} to {k}": ("@",),
    "lock {w}": (
        "light", "fan", "TV", "oven", "speaker", "vacuum", "lamp", "AC", "thermostat",
        "heater", "blinds", "timer",
    ),
    "unlock {w}": (
        "light", "fan", "camera", "coffee maker", "thermostat", "blinds", "lamp", "TV", "oven",
        "heater", "washing machine", "speaker",
    ),
    "send {w} back to its dock": (
        "oven", "TV", "fan", "light", "washing machine", "heater", "lamp", "speaker", "camera",
        "thermostat", "coffee maker",
    ),
    "switch {w} to channel {k}": (
        "oven", "fan", "vacuum", "heater", "coffee maker", "camera", "light", "thermostat",
        "lamp", "washing machine", "air purifier",
    ),
    "set {w} to {k} degrees": (
        "vacuum", "TV", "speaker", "light", "camera", "blinds", "lamp", "curtains",
        "washing machine", "fan",
    ),
    "make {w} {c}": (
        "oven", "vacuum", "TV", "heater", "fan", "washing machine", "speaker", "camera",
        "coffee maker", "air purifier",
    ),
    "paint {x}": ("the wall", "the fence", "my portrait", "the garage", "a picture"),
    "fix {x}": ("the roof", "my bike", "the broken chair", "the sink", "my laptop"),
    "buy {x}": ("some milk", "a present", "a new car", "bread", "shares"),
    "send {x}": ("an email", "a text to Tom", "money to Lisa", "a postcard"),
    "iron {x}": ("my shirts", "the curtains", "my dress", "the trousers"),
    "wake up {x}": ("the kids", "my husband", "grandpa", "the dog"),
    "how do I {x}": (
        "learn Chinese", "lose weight", "get to the station", "make bread", "find a job",
        "tie a tie", "cook rice", "learn to swim", "fix my car", "write a novel", "get rich",
        "draw a horse", "grow tomatoes",
    ),
    "who {x}": (
        "are you", "wrote Hamlet", "is the president", "invented the phone",
        "painted the Mona Lisa", "is my best friend", "won the World Cup",
        "discovered America", "is Albert Einstein", "lives next door", "built the pyramids",
        "sings this",
    ),
    "play {x} with me": ("chess", "a game", "cards", "hide and seek", "football"),
    "find {x}": (
        "my keys", "my phone", "a cheap hotel", "the nearest pharmacy", "a good restaurant",
        "my glasses",
    ),
    "clean {x}": ("the windows", "my shoes", "the car", "the toilet", "the fish tank"),
    "water {x}": ("the plants", "the roses", "the lawn", "the trees"),
    "drive {x}": ("me to work", "to the airport", "the kids to school", "me home"),
    "is it {x}": ("raining", "Monday today", "true that cats dream", "safe to swim", "late"),
    "why {x}": ("is the sky blue", "do cats purr", "am I so tired", "is the sea salty"),
}  # fmt: skip
CHINESE: dict[str, tuple[str, ...]] = {
    "点{x}": (
        "一份披萨", "一份寿司", "外卖", "一杯奶茶", "两个汉堡", "一碗面", "一份沙拉",
        "一个蛋糕", "一本书", "一份炒饭",
    ),
    "订{x}": (
        "去北京的机票", "上海的酒店", "两个人的位子", "火车票", "电影票", "一束花", "一间酒店",
        "出租车", "一双鞋", "球场", "医生的号",
    ),
    "给{x}打电话": (
        "妈妈", "警察", "老板", "医生", "奶奶", "小王", "姐姐", "爸爸", "学校", "银行", "邻居",
        "朋友",
    ),
    "告诉我{x}": (
        "今天的天气", "现在几点", "法国的首都", "你的名字", "今天的新闻", "金价", "谁赢了比赛",
        "一加一等于几", "世界上最高的山", "日本有多少人", "明天会不会下雨", "什么是黑洞",
        "怎么减肥", "我的存款",
    ),
    "讲{x}": (
        "一个笑话", "一个故事", "一段历史", "点有趣的事", "一个童话", "一个谜语", "一件往事",
    ),
    "写{x}": (
        "一首诗", "一封邮件", "一封信", "作业", "一段代码", "一份购物清单", "一首歌",
        "一份报告", "一张贺卡", "一篇演讲稿",
    ),
    "把{x}翻译成{y}": ("这句话", "我的信", "你好", "菜单", "这段文字"),
    "喂{x}": ("猫", "狗", "鱼", "宝宝", "鸡"),
    "做{x}": (
        "晚饭", "一个鸡蛋", "一锅汤", "米饭", "红烧肉", "一份沙拉", "面条", "蛋糕", "三明治",
    ),
    "去{x}": ("买菜", "邮局", "遛狗", "学校接孩子"),
    "打开{u}": ("@",),
    "关掉{u}": ("@",),
    "启动{u}": ("@",),
    "把{u}调到{k}": ("@",),
    "锁上{w}": (
        "灯", "风扇", "电视", "烤箱", "音箱", "扫地机", "电灯", "空调", "温控器", "暖气",
        "窗帘", "咖啡机",
    ),
    "解锁{w}": (
        "灯", "风扇", "摄像头", "咖啡机", "温控器", "窗帘", "电灯", "电视", "烤箱", "暖气",
        "洗衣机", "音箱",
    ),
    "让{w}回去充电": (
        "烤箱", "电视", "风扇", "灯", "洗衣机", "暖气", "电灯", "音箱", "摄像头", "温控器",
        "咖啡机",
    ),
    "把{w}换到{k}频道": (
        "烤箱", "风扇", "扫地机", "暖气", "咖啡机", "摄像头", "灯", "温控器", "洗衣机",
        "空气净化器",
    ),
    "把{w}调到{k}度": (
        "扫地机", "电视", "音箱", "灯", "摄像头", "窗帘", "电灯", "百叶窗", "洗衣机", "风扇",
    ),
    "把{w}变成{c}": (
        "烤箱", "扫地机", "电视", "暖气", "风扇", "洗衣机", "音箱", "摄像头", "咖啡机",
        "空气净化器",
    ),
    "修{x}": ("屋顶", "自行车", "椅子", "水管", "电脑"),
    "买{x}": ("牛奶", "礼物", "新车", "面包", "股票", "水果", "一双鞋", "鸡蛋", "一本书"),
    "发{x}": ("一封邮件", "短信给小李", "红包", "一张明信片"),
    "熨{x}": ("衬衫", "裤子", "裙子", "桌布"),
    "叫醒{x}": ("孩子", "爷爷", "弟弟", "狗"),
    "教我{x}": (
        "学英语", "减肥", "做面包", "找工作", "弹琴", "游泳", "画画", "打领带", "写小说",
        "种番茄", "做饭",
    ),
    "算一下{x}": ("房贷", "三加五", "税", "我的年龄"),
    "陪我{x}": ("下棋", "玩游戏", "打牌", "聊天", "踢球"),
    "帮我找{x}": ("钥匙", "手机", "便宜的酒店", "最近的药店", "眼镜"),
    "洗{x}": ("车", "鞋", "窗户", "碗"),
    "给{x}浇水": ("花", "草坪", "树", "番茄"),
    "送{x}": ("我去上班", "孩子去学校", "我去机场", "我回家"),
    "为什么{x}": ("天是蓝的", "海水是咸的", "我这么累", "猫会叫"),
    "今天{x}": ("下雨吗", "星期几", "有什么电影", "股票涨了吗"),
}  # fmt: skip

ENGLISH_UNKNOWN: tuple[str, ...] = (
    "swimming pool", "lawn mower", "car", "doorbell", "toaster", "hair dryer", "piano", "elevator",
    "sewing machine", "jacuzzi", "tractor", "rocket", "printer", "bicycle", "sauna", "microscope",
)  # fmt: skip
CHINESE_UNKNOWN: tuple[str, ...] = (
    "游泳池", "割草机", "汽车", "门铃", "面包机", "吹风机", "钢琴", "电梯", "缝纫机", "打印机",
    "拖拉机", "火箭", "自行车", "桑拿房", "显微镜", "跑步机",
)  # fmt: skip
ENGLISH_LANGUAGES: tuple[str, ...] = ("German", "Chinese", "French", "Spanish")
CHINESE_LANGUAGES: tuple[str, ...] = ("英语", "德语", "法语", "日语")
ENGLISH_QUESTIONS: tuple[str, ...] = ("what", "how", "who", "is", "why")
