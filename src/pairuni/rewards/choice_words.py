"""What announces, denies, doubts and takes back an option in seven languages: the table that choice.py reads by.

Each entry is a regular expression for text that `choice.plain` has cleaned: half-width, 。 and 、 as full stop and
comma, a space between a Latin letter and a Chinese, Japanese or Korean sign. To teach the reader another language, add
a row; to teach it another phrase, add it where its kind stands. Lists are alternatives, and order does not matter.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrases:
    """The phrases of one language. "Before" ends right before the option, "after" begins right after it."""

    announce: tuple[str, ...]
    """Before: "the answer is", "I choose"."""
    hint: tuple[str, ...]
    """Before, weaker: "so", "it is", "but". A letter must end its clause there; of texts only one may be hinted at."""
    affirm: tuple[str, ...]
    """After: "is correct"."""
    deny_before: tuple[str, ...]
    """"not", "rather than", "I don't think it is"; commas end them."""
    deny_after: tuple[str, ...]
    """"is wrong", "does not"."""
    doubt_before: tuple[str, ...]
    """Anywhere in the clause before: "if", "whether", "at first", "might"."""
    doubt_after: tuple[str, ...]
    """"could be"."""
    correct: tuple[str, ...]
    """At the start of a clause, takes back all that was said before: "wait", "let me check again"."""
    contrast: tuple[str, ...]
    """Words that begin a clause: "but"."""
    join: tuple[str, ...]
    """Between two options that are named in one breath: "or"."""
    fill: tuple[str, ...]
    """May stand between a phrase before and the option: "the", "option"."""
    named: tuple[str, ...]
    """Before an option that is merely named: "option"."""
    because: tuple[str, ...]
    """After an option that is meant as one: "because", "is"."""
    conclude: tuple[str, ...]
    """Anywhere before, in the sentence: "therefore"."""
    is_it: tuple[str, ...]
    """Before an option with which a sentence ends: "the animal is"."""
    place: tuple[str, ...]
    """The option that stands first, second, third, fourth, fifth and last in the list: "the first option"."""


_IS = r"(?:'s|\s+(?:is|are|was|be|would|should|must|will|has|to|here|therefore|thus|given|then|indeed|remains))*"
_NO_STOP = r"[^.,;:!?\n]"

_ADVERB = r"therefore|thus|clearly|definitely|indeed|actually|probably|most\s+likely|hence|called|labell?ed"
_GOOD = (
    r"(?:correct|right|accurate|appropriate|suitable|fitting|specific|precise|"
    r"likely|probable|plausible|reasonable|logical|sensible)"
)


def _places(form: str, ordinals: str) -> tuple[str, ...]:
    return tuple(form.format(f"(?:{ordinal})") for ordinal in ordinals.split())


ENGLISH = Phrases(
    announce=(
        rf"\banswer[\"']?(?:\s+(?:choice|option|letter)|,[^,.\n]{{1,40}},)?{_IS}",
        rf"\b(?:correct|right|best|final|chosen|selected|closest)\s+(?:option|choice|letter|one|selection|match){_IS}",
        r"\b(?:option|choice|letter|ans|final|conclusion|verdict|selection|solution|pick|guess|response)[\"']?\s*(?:is|[:=])",
        rf"\b(?:answer|option|choice|one)\b{_NO_STOP}{{1,60}}\s(?:is|would\s+be|must\s+be)",
        r"\b(?:choose|pick|select|guess|answer\s+with|go(?:ing)?\s+(?:with|for)|opt(?:ing)?\s+for|settle\s+on|stick(?:ing)?\s+with)",
        r"\b(?:lean(?:ing)?(?:\s+towards?)?|inclined\s+(?:to(?:\s+\w+)?|towards?)|mark)|\bin\s+favou?r\s+of|\b(?:choosing|picking|selecting|chose|picked|selected|vote\s+for|changing?\s+(?:my\s+answer\s+)?to)",
        r"\b(?:conclude)(?:\s+that)?(?:\s+(?:it|this|that)(?:\s+is|'s))?|\b(?:think|believe|say|meant?)\s+(?:that\s+)?(?:it\s+is|it's)",
    ),
    hint=(
        r"\b(?:so|therefore|thus|hence|finally)\s*,?(?:\s+that)?(?:\s+(?:it|this|that)(?:\s+is|'s))?",
        r"\b(?:it|that|this)(?:\s+is|'s|\s+must\s+be|\s+should\s+be|\s+has\s+to\s+be|\s+would\s+be)",
        r"\b(?:so|thus|therefore|hence)\s*,?\s+(?:among|of|out\s+of)\s[^.,;:!?\n]{1,40},",
        r"\byes\s*,|\b(?:think|believe|say|meant?)(?:\s+that)?|\b(?:definitely|probably|clearly|likely|certainly|surely)",
        r"\bbased\s+on\s[^.!?\n]{1,80},",
        r"\b(?:corresponds?|points?|leads?\s+us|brings?\s+us|amounts?)\s+to|\bmatch(?:es)?(?:\s+with)?|\bmakes?\s+(?:it|that)",
        r"\bwhat(?:'s|\s+is)?\s+(?:left|remains)\s+is|\bleaves?(?:\s+us)?(?:\s+(?:only|with))*|\b(?:looks\s+like|seems\s+(?:to\s+be|like)|appears\s+to\s+be)",
        r"\bonly|\b(?:but|rather|instead)(?:\s+(?:it's|it\s+is|is))?",
    ),
    affirm=(
        r"\s+is\s+(?:chosen|selected)\b|\s+yes\b(?=\s*(?:[.,;!\n]|$))",
        r"\s+(?:is|(?:seems|appears)(?:\s+to\s+be)?|must\s+be|would\s+be|looks(?:\s+like)?|has\s+to\s+be|remains)\s+(?:(?:clearly|definitely|the|most|indeed)\s+)*"
        r"(?:correct|right|best|answer|true|only\s+(?:correct|right|one|option|choice)|one)\b(?!\s*,?\s*(?:but|yet|too\b|in\s+a))",
        rf"\s+(?:is|does|seems|would\s+be|looks|has\s+to\s+be|must\s+be)(?:\s+(?:the|a|clearly|therefore|thus|much|far|by))*"
        rf"(?:\s*(?=[.;!\n])|\s+(?:(?:most|more)\s+{_GOOD}|best|better)\b(?!\s+to\s+(?!me\b|us\b)|\s+(?:wrong|un|in)))",
        r"\s+(?:is|would\s+be)\s+(?:my|our|what|(?:best\s+|well\s+)?supported|the\s+(?:better|closest)\s+(?:match|choice|option|answer|one))\b"
        r"(?!\s+(?:first|second|initial|last|next))",
        r"\s+(?:describes|matches|fits|explains|answers)\s[^.,;:!?\n]{1,40}\s(?:best|better|most\s+\w+ly)\b",
        r"\s+(?:best|most\s+(?:\w+ly))\s+(?:describes|matches|fits|represents|captures|answers|reflects|explains|completes|summari[sz]es)\b",
        r"\s+(?:fits|matches)\s+(?:it\s+)?(?:the\s+)?(?:best|better)\b|\s+it\s+is\b|\s+(?:stays|remains|is\s+left)\b",
        r"\s*[:(\u2013\u2014-]\s*(?:correct|right|true|yes)\b(?=\s*[.,;:!)\n]|\s*$)",
    ),
    deny_before=(
        r"(?<=\w\s)no(?=\s*$)",
        r"(?:\b(?:not|never|neither|nor|cannot|rather\s+than|instead\s+of|except|excluding|excludes?|eliminat\w+|reject|rules?\s+out|ruling\s+out|ruled\s+out|no\s+longer)|n't)"
        r"(?:\s+(?:be|really|necessarily|quite|actually|exactly|definitely|either|just|simply))*",
        rf"(?:\bnot|n't|\bnever)\s+(?:think|believe|say|choose|pick|select|agree|guess|go\s+with|support)\b{_NO_STOP}*",
        rf"(?<!no\s)(?<!little\s)\bdoubt\b{_NO_STOP}*|\bunlikely\b{_NO_STOP}*",
    ),
    deny_after=(
        r"\s+(?:is|was|looks|seems|would|can|could|must|does|did|should|has|will|do)\s*(?:n't|\s+not)\b|\s+(?:can't|cannot|won't)\b",
        r"\s+(?:is|was|looks|seems|would\s+be|must\s+be)\s+(?:\w+ly\s+)?(?:also\s+)?"
        r"(?:wrong|incorrect|false|impossible|out|ruled|eliminated|excluded|unlikely|not)\b",
        r"\s*[:(\u2013\u2014-]\s*(?:no|wrong|incorrect|false|not)\b(?!\s+(?-i:[A-Z]\b))|\s+fails\b|\s+no\b(?=\s*(?:[.,;!\n]|$))|\s+(?:is|would\s+be|as)\s+(?:my|a|the)\s+(?:close\s+|next\s+)?(?:second|runner)\b",
        r"\s+(?:is|may\s+be|might\s+be)\s+(?:true|correct|right|valid)\s*,?\s*(?:but|yet)\b",
    ),
    doubt_before=(
        r"\bif\b|\bwhether\b|\bmaybe\b|\bperhaps\b|\bpossibly\b|\b(?:might|may|could)\b|\binitial(?:ly)?\b|\bat\s+first\b",
        r"\b(?:first|originally|previously|earlier)\b|\bthought\b|\bassum(?:e|ed|ing)\b|\bsuppos(?:e|ed|ing)\b|\bnot\s+sure\b",
        r"\bunsure\b|\bseemed\b|\bsome(?:one)?\s+(?:\w+\s+)?(?:say|think|argue)\b|\btempt(?:ed|ing)\b|\beither\b(?=.*\bor\b)",
        r"\b(?:said|wrote|answered)\b|\b(?:was|were)\s+going\s+to\b|\bunless\b|\bwould\s+have\b|\bhad\b",
    ),
    doubt_after=(
        r"\s+(?:could|might|may)\b|\s+(?:is|was|seems|seemed|looks|looked)\s+(?:also\s+)?(?:possible|plausible|tempting|close)\b",
        r"\s+(?:at\s+first|initially|before)\b|\s+if\b|(?:\s+(?:they|we|one|you|it|there))?\s+would\b(?!\s+be\s+(?:my|our|the|correct|right|best|most)\b)",
    ),
    correct=(
        r"wait\b|hold\s+on\b|actually\b|scratch\s+that|correction\b|sorry\b|apolog\w+|my\s+(?:mistake|bad)\b|oops\b",
        r"(?:on|upon)\s+(?:second\s+thought|reflection|closer|re-?\w+)|looking\s+(?:again|closer|more)|I\s+made\s+(?:a|an)\s",
        r"(?:I\s+(?:should|need\s+to|must|will|'ll)|let\s+me|let's|let\s+us)\s+(?:\w+\s+)?(?:re-?\w+|double[-\s]?check|check|correct|look|verify|think)\b",
        r"I\s+(?:was|am|stand|got|misread|misspoke|change|take)\b(?=[^.!?\n]*(?:wrong|mistaken|corrected|misread|misspoke|my\s+(?:mind|answer)|back))",
        r"no\s*(?=[,.!:;\n\u2013\u2014-])|no\s+(?:it's|it\s+is|wait)|that\s+is\s+wrong|that's\s+(?:wrong|not\s+right)|I\s+mean\b",
        r"(?:that|this|it|which)(?:'s|\s+is|\s+was)\s+(?:\w+ly\s+)?(?:wrong|incorrect|false|not\s+(?:right|correct|true)|a\s+mistake)",
        r"however\s*,?\s*(?:upon|on|looking)\b|(?:the\s+)?real\s+answer\b|strike\s+that",
        r"(?:I|we|one|it)\s+(?:can\s*not|can't|could\s*n[o']t|am\s+(?:un|not\s+)able\s+to|do\s*n[o']t|is\s+(?:impossible|not\s+possible)\s+to)\s+(?:\w+\s+)?"
        r"(?:say|tell|decide|determine|know|choose|judge|commit|settle)\b(?=[^.!?\n]*\b(?:which|whether|between|either|one\s+of)\b)",
    ),
    contrast=(r"\b(?:but|however|though|although|while|whereas|then|so|yet)\b",),
    join=(r"(?:\b(?:or|and)\b)(?:,?\s+(?:maybe|perhaps|possibly|also|even|less\s+likely|alternatively),?)?",),
    fill=(
        r"the|an?|my|option|choice|letter|answer|definitely|clearly|probably|likely|most|just|simply|indeed|thus|either|both|surely"
        r"|certainly|obviously|is|it|it's|still|number|therefore|only|best|correct|that|actually",
    ),
    named=(r"\b(?:option|choice)",),
    because=(
        r"\s+(?:is|was|or|and|because|since|as|but|not|for|due|given|which|seems|looks|in|from|at|with|rather|instead|over)\b",
    ),
    conclude=(
        r"\b(?:therefore|thus|hence|consequently|accordingly|overall)\b|\bin\s+(?:conclusion|summary)\b|(?<![^.!?\n]{3})\bso\b|\bwhat\s+(?:remains|is\s+left)\b|\b(?:must|has\s+to|have\s+to|can\s+only)\s+be\b",
    ),
    is_it=(
        rf"(?<!there)(?<!here)(?:\s+(?:is|are|was|were)|'s)(?:\s+(?:{_ADVERB}))*(?:(?:\s+[\w-]+){{1,4}}\s*[,(]\s*(?:label|number|marked|point|letter)?)?\s*(?:\b(?:an?|the)\s+)?",
    ),
    place=_places(
        r"\bthe\s+{}\s+(?:option|choice|alternative)\b(?!\s+(?:is|was|would\s+be)\s+\(?[a-z]\b)",
        "first|1st second|2nd third|3rd fourth|4th fifth|5th last|final",
    ),
)

CHINESE = Phrases(
    announce=(
        r"(?:答案|正解)\s*(?:应该|應該|应|應|就|便|也就|只能|仍然?|还)?\s*(?:是|为|為|选|選|:|=)*",
        r"(?:正确|正確|最佳|最终|最終|最合适|最符合\w{0,6})的?(?:答案|选项|選項|选择|是|为)?\s*(?:应该)?\s*(?:是|为|為|:)",
        r"(?:选择|選擇|选|選|故选|应选|改选|倾向于?|我猜测?是?)\s*:?",
    ),
    hint=(
        r"(?:应该|應該|应当|就|而|那就|其实|实际上?|我认为|认为|觉得|我想)(?:应该)?(?:是|为|选)",
        r"(?:所以|因此|故|综上所述|综上|由此可见|总之|可知)\s*,?\s*(?:应该|就)?(?:是|为|選|选)?",
        r"(?:判断|确定)(?:应该)?(?:是|为|选)|应为|改为|换成|(?:对应|符合)(?:的是)?|只有|只剩下?|剩下(?:的是)?|最有?可能的?(?:答案)?(?:是|为)?|很可能是",
    ),
    affirm=(
        r"\s*(?:选项|項|项)?\s*(?:是|为|才|最为?|更|比较|显然)*\s*(?:正确|正確|对的|對的|符合|合适|恰当|贴切|合理|答案|正解|准确)",
        r"\s*比[^,.]{1,12}更\s*(?:正确|符合|合适|恰当|贴切|合理|准确)",
        r"\s*(?:选项|项)?(?:是)?对(?=[\s.,!]|$)|\s*:\s*(?:正确|對|对)(?=[\s.,;!]|$)",
    ),
    deny_before=(
        r"(?:不是|不选|不選|不会是|不能是|不可能是|不应该?是|不该选|不能选|不应选|并非|絕非|绝非|排除了?|比|不如|而不是|而非|而不选|不符合|不再是)",
        rf"(?:不认为|不認為|不觉得|不相信|没有理由选){_NO_STOP}*",
    ),
    deny_after=(
        r"\s*:\s*(?:错误|错|不对|不正确)|\s*(?:选项|項|项)?\s*(?:显然|明显|都|也|肯定|就|可以|应该?|是|则)*\s*"
        r"(?:不对|不對|不正确|不正確|错误|錯誤|错|錯|不符|不成立|不可能|不是|并不|并非|排除|被排除|有误|不合|不准确|不行)",
    ),
    doubt_before=(
        r"如果|假如|假设|若|是否|(?<![最很有])(?<!最有)(?<!很有)可能|也许|或许|一开始|起初|最初|开始时|原本|本来|以为|不确定|不知道|乍一?看|先前|刚才|原来选|曾",
    ),
    doubt_after=(r"\s*(?:吗|嗎|还是|也有可能|也可能|有可能|似乎|看起来|看似)",),
    correct=(
        r"(?:哦|啊|嗯|呃)?[,\s]*(?:不对|不對|不,|等等|等一下|等下|慢着|更正|纠正|修正|抱歉|对不起|其实|实际上|事实上|我错了|搞错|看错|说错|弄错|错了)",
        r"(?:这|那)(?:是|个答案)?(?:不对|错)|(?:但|却)?我?(?:无法|不能|难以)(?:确定|判断|决定|区分)[^.,]*(?:哪|还是)",
        r"(?:让我|我们?|请|再|但)*\s*(?:重新|再次?(?:看|想|检查|核对|确认|仔细)|仔细(?:看|想|观察)|检查一下|核对一下)",
    ),
    contrast=(r"但是?|不过|然而|而是|所以|因此|可是|却",),
    join=(r"或者?|和|与|與|及|以及|还是|跟",),
    fill=(r"选项|選項|选择|字母|第|是|为|的|:",),
    named=(r"选项|選項",),
    because=(r"\s*(?:因为|因|由于)",),
    conclude=(r"因此|所以|故|综上|由此|可见|可知|总之",),
    is_it=(r"(?:是|为|為)\s*",),
    place=_places(r"第\s*{}\s*个?(?:选项|選項|项)", "[一1] [二2] [三3] [四4] [五5] (?!)"),
)

JAPANESE = Phrases(
    announce=(
        r"(?:答え|答|正解|解答|回答|正答|答案|結論)\s*(?:としては|として|は|が|:)?|残るのは|(?:では|じゃ)なくて?\s*,?",
        r"(?:正しい|適切な|最適な|該当する|ふさわしい)\s*(?:答え|選択肢|もの|解答|の)?は|選択肢\s*(?:は|:)|正しくは",
    ),
    hint=(r"(?:よって|したがって|従って|ゆえに|つまり|だから|なので|ので|結局|やはり|おそらく|恐らく|たぶん)\s*,?",),
    affirm=(
        r"\s*(?:が|は|こそ)\s*(?:最も|一番)?\s*(?:正解|正しい|正答|答え|適切|当てはま|妥当|該当)",
        r"\s*の可能性が\s*(?:最も|一番)\s*高|\s*(?:を|に)\s*(?:選び|選択|選ぶ|選ん|決め|します)",
    ),
    deny_before=(r"(?<!.)\b\B",),  # Japanese denies after the option
    deny_after=(
        r"\s*(?:の選択肢)?(?:は|が|も)?\s*(?:正解|答え|正しい)?\s*(?:では|じゃ|でも|とは)?\s*(?:な[いくか](?!と思う)|ありません|思いません|思えない|考えられ(?:ない|ません))",
        r"\s*(?:の選択肢)?(?:は|が|も)\s*(?:明らかに)?(?:誤り|間違|違い|違う|違って|不正解|不適切|当てはまら|当てはまりま|除外|合わな|合いません|正しくな|正しくありま)",
        r"\s*(?:の選択肢)?(?:は|が|も)[^.,]{1,25}(?:除外|合わな|合いません|違いま|当てはまりません|異なり)",
    ),
    doubt_before=(r"もし|最初|はじめ|初め|当初|一見|仮に|ひょっとして|もしかし",),
    doubt_after=(
        r"\s*(?:です|だ|が正解|が答え|で)?\s*(?:かもしれ|か(?:どうか|も)|だ?と(?:思(?:った|いまし|って)|考え(?:た|まし))|ですか|でしょうか|の可能性(?!が\s*(?:最も|一番)\s*高)|に見え|か\s)",
    ),
    correct=(
        r"いや|いえ|いいえ|待って|待てよ|ちょっと待|訂正|すみません|もう一度|よく見ると|よく考え|違いま|違う|間違え|やっぱり|失礼|再(?:確認|検討|考)|実は|実際に?は|見直|ど(?:ちら|れ)[^.]*(?:決められ|判断でき|わかりませ|言えませ)|それは(?:間違|違)",
    ),
    contrast=(r"しかし|でも|ですが|だが|が,|けど|けれど|よって|したがって",),
    join=(r"または|もしくは|あるいは|および|と|か|や",),
    fill=(r"選択肢|記号|の|は",),
    named=(r"選択肢",),
    because=(r"\s*(?:です|だ|で|と|を|が|は)",),
    conclude=(r"よって|したがって|従って|ゆえに|つまり|以上より|このことから",),
    is_it=(r"(?!)",),
    place=_places(r"{}\s*(?:番目|つ目)の\s*(?:選択肢|もの)", "[一1] [二2] [三3] [四4] [五5] (?!)"),
)

KOREAN = Phrases(
    announce=(
        r"(?:정답|답|답변|해답|결론|선택)\s*(?:은|는|으로는|으로|:)*\s*:?",
        r"(?:올바른|맞는|옳은|알맞은|적절한|정확한)\s*(?:것|답|선택지|보기|선택|답변)?\s*(?:은|는|:)",
    ),
    hint=(r"아니라\s*,?|(?:따라서|그러므로|그래서|결론적으로|즉|결국)\s*,?(?:\s*(?:정)?답은)?",),
    affirm=(
        r"\s*(?:번)?(?:이|가|은|는)\s*(?:가장\s*)?(?:정답|답|맞|옳|적절|올바|정확)",
        r"\s*(?:번)?(?:을|를|으로|로)\s*(?:정답으로|답으로)?\s*(?:선택|고르|고릅|골|택)",
    ),
    deny_before=(r"(?<!.)\b\B",),  # Korean denies after the option
    deny_after=(
        r"\s*(?:번)?(?:은|는|이|가|도)?\s*(?:정답이|정답은|답이|답은|맞지)?\s*(?:아니|아닙|아닌|틀[렸린립]|오답|않|제외|잘못|아님)",
        r"\s*(?:이?라고)\s*(?:생각하지|보지)",
    ),
    doubt_before=(r"만약|처음|혹시|원래|얼핏|애초",),
    doubt_after=(
        r"\s*(?:일|인)\s*(?:수도|지도?\s|가요|까요|지는)|\s*(?:이?라고|인\s*줄)\s*(?:생각했|봤|보았|알았)|\s*일지도|\s*처럼|\s*같았",
    ),
    correct=(
        r"아니(?:[,.!\s]|요|야)|아닙니다|잠깐|잠시만|정정|다시|죄송|실수|사실은?\b|생각해\s*보니|자세히\s*보|틀렸|(?:어느|무엇)[^.]*(?:모르겠|결정할\s*수|판단할\s*수)|제가\s*틀",
    ),
    contrast=(r"하지만|그러나|그런데|지만|는데|따라서",),
    join=(r"또는|혹은|및|과|와|이나|나|이랑",),
    fill=(r"선택지|보기|옵션|바로|번호",),
    named=(r"선택지|보기|옵션",),
    because=(r"\s*(?:입니다|이다|예요|이에요|이며|이고|번|임|때문)",),
    conclude=(r"따라서|그러므로|결국|즉",),
    is_it=(r"(?!)",),
    place=_places(r"{}\s*번째\s*(?:선택지|보기|옵션)", "첫|1 두|2 세|3 네|4 다섯|5 마지막"),
)

FRENCH = Phrases(
    announce=(
        r"\br[ée]ponse(?:\s+(?:correcte|finale|exacte|juste|est|serait|doit\s+être|donc|à\s+choisir))*",
        r"\b(?:bonne|meilleure|correcte)\s+(?:r[ée]ponse|option|proposition|solution)(?:\s+(?:est|serait|donc))*",
        r"\b(?:option|proposition|choix|solution|lettre)\s*(?:(?:correcte?|final)\s*)*(?:est|serait|:)",
        r"\bje\s+(?:choisis|choisirais|dirais|dis|r[ée]ponds|s[ée]lectionne|prends|retiens|vote\s+pour)|\b(?:opte|penche)\s+pour",
    ),
    hint=(
        r"\bc'est(?:\s+donc)?|\b(?:donc|ainsi|alors|finalement|en\s+conclusion|par\s+cons[ée]quent)\s*,?(?:\s*c'est)?",
        r"\breste(?:\s+que)?|\bseule?|\b(?:pense|crois)\s+que\s+(?:c'est|la\s+r[ée]ponse\s+est)|\bil\s+s'agit\s+de|\bcorrespond\s+[àa]|\bmais|\bplutôt",
    ),
    affirm=(
        r"\s*[:(-]\s*(?:correcte?|vraie?|juste)\b(?=\s*[.,;!)\n]|\s*$)|\s+(?:est|serait|semble|paraît)\s+(?:donc\s+)?(?:la\s+|le\s+|l')?(?:plus\s+|mieux\s+)?(?:bonne|appropriée?|adaptée?|probable|précise|correcte?|juste|exacte?|meilleure?|r[ée]ponse|vraie?)",
    ),
    deny_before=(
        r"(?:\bpas|\bni|\bplutôt\s+que|\bau\s+lieu\s+de|\bsauf|\bexclure|\bexclut|\bexclus|\b[ée]limine[rz]?|\bnon|\bjamais)",
        rf"\bpas\s+que\b{_NO_STOP}*",
    ),
    deny_after=(
        r"\s*[:(-]\s*(?:faux|fausse|incorrecte?)\b|\s+n(?:'est|e\s+\w+|'a|e)\b[^.,;:!?\n]{0,20}\bpas\b|\s+est\s+(?:fausse?|incorrecte?|[ée]limin[ée]e?|exclue?|erron[ée]e?)",
    ),
    doubt_before=(
        r"\bsi\b|\bs'il\b|\bpeut-être\b|\bd'abord\b|\bau\s+(?:début|départ)\b|\binitialement\b|\bpourrait\b|\bpensais\b|\bcroyais\b",
        r"\bai\s+(?:\w+\s+)?(?:pensé|cru)\b|\bsemblait\b|\bsais\s+pas\b|\bpremière\s+vue\b|\bhésit\w+",
    ),
    doubt_after=(r"\s+(?:pourrait|semblait|est\s+possible|peut-être)",),
    correct=(
        r"non\s*(?=[,.!:;\n])|attend(?:s|ez)\b|en\s+fait\b|pardon\b|erreur\b|correction\b|désolée?\b|oups\b|après\s+(?:réflexion|vérification)",
        r"je\s+(?:me\s+(?:suis\s+trompée?|corrige)|corrige|rectifie|revois)|c'(?:est|était)\s+(?:faux|incorrect|une\s+erreur)|réflexion\s+faite|je\s+ne\s+(?:peux|sais)\s+(?:donc\s+)?pas\s+(?:trancher|choisir|décider|dire)|(?:re)?vérifions|à\s+bien\s+y\s+regarder|en\s+y\s+regardant",
    ),
    contrast=(r"\b(?:mais|cependant|donc|pourtant|toutefois)\b",),
    join=(r"\b(?:ou|et)\b(?:\s+(?:peut-être|bien))?",),
    fill=(r"la|le|de|option|r[ée]ponse|lettre|bien|donc|plutôt|proposition|choix|est|clairement|l'option|l'",),
    named=(r"\b(?:option|r[ée]ponse|proposition)",),
    because=(r"\s+(?:est|car|parce|puisque|et|ou|mais|pas|qui)\b",),
    conclude=(r"\b(?:donc|ainsi|par\s+cons[ée]quent|en\s+conclusion)\b",),
    is_it=(r"(?:\best|\bsont|\bc'est)\s+(?:l[ea]\s+|les\s+|une?\s+|l')?",),
    place=_places(
        r"\bl[ea]\s+{}\s+(?:option|proposition|r[ée]ponse)\b",
        "premi[èe]re deuxi[èe]me|seconde troisi[èe]me quatri[èe]me cinqui[èe]me derni[èe]re",
    ),
)

GERMAN = Phrases(
    announce=(
        r"\b(?:antwort|lösung|ergebnis|auswahl|wahl)(?:\s+(?:ist|lautet|wäre|muss|müsste|sollte|also|daher|somit|sein|hier|demnach))*",
        r"\b(?:option|antwortmöglichkeit|möglichkeit|buchstabe)\s*(?:ist|lautet|:)|\b(?:richtig|korrekt|zutreffend)\s+(?:ist|wäre)",
        r"\b(?:richtige|korrekte|beste)\s+(?:option|antwort|lösung|wahl|möglichkeit)(?:\s+(?:ist|lautet|wäre|also|daher))*",
        r"\bich\s+(?:wähle|nehme|sage|tippe\s+auf|würde|denke|glaube|meine)\s*,?(?:\s*(?:sagen|es\s+ist|dass\s+es|wählen|auf))*",
        r"\bam\s+besten\s+passt|\bentscheide\s+mich\s+(?:\w+\s+)?für",
    ),
    hint=(
        r"\b(?:es|das|dies)\s+ist|\bentspricht|\bist\s+es",
        r"\b(?:also|daher|somit|folglich|deshalb|demnach|schließlich)\s*,?(?:\s+(?:ist\s+es|ist|es\s+ist|nehme\s+ich|wähle\s+ich))?",
        r"\bsondern|\bvielmehr|\baber|\bbleibt(?:\s+(?:nur|also|noch))*|\bnur",
    ),
    affirm=(
        r"\s+(?:ist|wäre|scheint|muss)\s+(?:(?:die|das|also|daher|somit|hier|eindeutig|wohl)\s+)*(?:richtig\w*|korrekt\w*|antwort|lösung|beste|zutreffend)",
        r"\s+(?:ist|passt|beschreibt\s+\w+\s+\w+|trifft)\s+am\s+(?:besten|ehesten|wahrscheinlichsten|genauesten|treffendsten)\b",
        r"\s*[:(-]\s*(?:richtig|korrekt)\b(?=\s*[.,;!)\n]|\s*$)|\s+(?:stimmt|passt)\b(?!\s+(?:\w+\s+)?nicht)|\s+trifft\s+zu\b",
    ),
    deny_before=(
        r"(?:\bnicht|\bkein\w*|\bweder|\bnoch|\bstatt|\banstatt|\baußer|\bohne)(?:\s+(?:um|mehr|wirklich))*",
        rf"\bnicht\s*,\s*dass\b{_NO_STOP}*|\bbezweifle\b{_NO_STOP}*",
    ),
    deny_after=(
        r"\s+(?:ist|wäre|kann|passt|trifft|scheidet|stimmt|fällt|kommt)\s+(?:\w+\s+){0,2}(?:nicht|falsch|inkorrekt|ausgeschlossen|aus|weg|unpassend)\b",
        r"\s+ist\s+es\s+nicht\b|\s*[:(-]\s*(?:falsch|inkorrekt|nicht)\b",
    ),
    doubt_before=(
        r"\bwenn\b|\bfalls\b|\bob\b|\bvielleicht\b|\bzuerst\b|\banfangs\b|\bzunächst\b|\bkönnte\b|\bdachte\b|\bglaubte\b|\bmöglicherweise\b",
        r"\bursprünglich\b|\bersten\s+blick\b|\bunsicher\b|\bmöglich\b|\berst\b|\bhätte\b",
    ),
    doubt_after=(r"\s+(?:könnte|wäre\s+möglich|schien)",),
    correct=(
        r"nein\b|moment\b|warte\b|halt\s*[,.!]|stopp?\b|korrektur\b|eigentlich\b|tatsächlich\b|entschuldigung\b|verzeihung\b|quatsch\b|doch\s+nicht",
        r"(?:ich\s+)?(?:prüfe|überprüfe|schaue|sehe)\s+(?:\w+\s+)*(?:noch\s*mal|nochmals|erneut|nach)|noch\s*(?:ein)?mal\b|bei\s+(?:genauerem|näherem)|lass\w*\s+(?:mich|uns)\b",
        r"ich\s+kann\s+(?:mich\s+)?nicht\s+(?:entscheiden|sagen)|das\s+(?:ist|war)\s+falsch|ich\s+(?:korrigiere|habe\s+mich\s+(?:geirrt|vertan|verlesen))",
    ),
    contrast=(r"\b(?:aber|sondern|jedoch|doch|also|daher|somit)\b",),
    join=(r"\b(?:oder|und)\b(?:\s+(?:vielleicht|auch))?",),
    fill=(
        r"die|der|das|option|antwort|buchstabe|also|eindeutig|wohl|lautet|möglichkeit|ist|es|klar|auf|richtige|doch|lieber|dann",
    ),
    named=(r"\b(?:option|antwort|möglichkeit)",),
    because=(r"\s+(?:ist|weil|da|denn|und|oder|nicht|aber|sein)\b",),
    conclude=(r"\b(?:also|daher|somit|folglich|deshalb|demnach)\b",),
    is_it=(r"\b(?:ist|sind)\s+(?:(?:der|die|das|ein\w*)\s+)?",),
    place=_places(r"\bdie\s+{}\s+(?:option|antwort|möglichkeit)\b", "erste zweite dritte vierte fünfte letzte"),
)

SPANISH = Phrases(
    announce=(
        r"\brespuesta(?:\s+(?:correcta|final|es|sería|debe\s+ser|seria|adecuada|más|por\s+lo\s+tanto|entonces))*",
        r"\b(?:opción|opcion|alternativa|letra|solución|elección)\s*(?:(?:correcta|final|adecuada|elegida)\s*)*(?:es|sería|:)",
        r"\b(?:elijo|escojo|selecciono|elegiría|escogería|diría|digo|marco)(?:\s+que\s+es)?|\bme\s+quedo\s+con|\bme\s+inclino\s+por",
    ),
    hint=(
        r"\b(?:creo|pienso|considero)\s+que\s+(?:es|la\s+respuesta\s+es)|\bse\s+trata\s+de|\bcorresponde\s+a|\bes\b|\bcorrect[oa]\s+es",
        r"\b(?:por\s+lo\s+tanto|por\s+tanto|así\s+que|entonces|en\s+conclusión|finalmente)\s*,?(?:\s+es)?|\bsino(?:\s+que\s+es)?|\bpero|\bqueda",
    ),
    affirm=(
        r"\s*[:(-]\s*(?:correct[oa]|verdader[oa])\b(?=\s*[.,;!)\n]|\s*$)|\s+(?:es|sería|parece)\s+(?:la\s+|el\s+|lo\s+)?(?:más\s+)?(?:apropiad\w*|probable|precis\w*|correct\w*|respuesta|opción|adecuad\w*|mejor|verdader\w*)",
    ),
    deny_before=(
        r"(?:\bno\s+(?:es|sea|será|puede\s+ser|sería|fue|era)|(?:\by|,)\s*no|\bni|\ben\s+(?:lugar|vez)\s+de|\bdescart\w+|\bexcepto|\bsalvo|\btampoco)",
        rf"\bno\s+(?:creo|pienso|considero|parece)\b{_NO_STOP}*",
    ),
    deny_after=(
        r"\s*[:(-]\s*(?:incorrect[oa]|fals[oa])\b|\s+(?:no\s+\w+|tampoco\b|es\s+(?:incorrect|fals|err[óo]ne)\w*|(?:queda|está)\s+descartad\w*)",
    ),
    doubt_before=(
        r"\bsi\b|\bquizás?\b|\btal\s+vez\b|\bal\s+principio\b|\binicialmente\b|\bprimero\b|\bpodría\b|\bpensaba\b|\bpensé\b|\bcreía\b|\bcreí\b",
        r"\bprimera\s+vista\b|\bno\s+sé\b|\bno\s+estoy\s+segur\w\b|\bparecía\b|\bposible(?:mente)?\b",
    ),
    doubt_after=(r"\s+(?:podría|parecía|es\s+posible|quizás?)",),
    correct=(
        r"no\s*(?=[,.!:;\n])|no\s+espera|espera\b|esperen?\b|perdón\b|corrección\b|corrijo\b|en\s+realidad\b|de\s+hecho\b|mejor\s+dicho|disculp\w+|un\s+momento",
        r"(?:eso|esto)\s+(?:es|está)\s+(?:mal|incorrecto)|me\s+(?:equivoqué|he\s+equivocado|corrijo)|revis\w+|pensándolo|no\s+puedo\s+(?:decidir|elegir|decir)|déjame\b|mirando\s+(?:mejor|bien|de\s+nuevo)|rectifico|lo\s+siento",
    ),
    contrast=(r"\b(?:pero|sino|aunque|entonces|así\s+que)\b",),
    join=(r"\b(?:o|y|u|e)\b(?:\s+(?:quizás?|tal\s+vez))?",),
    fill=(r"la|el|opción|opcion|letra|respuesta|claramente|probablemente|es|que|correcta|alternativa",),
    named=(r"\b(?:opción|opcion|alternativa|respuesta)",),
    because=(r"\s+(?:es|porque|ya|pues|y|o|no|pero)\b",),
    conclude=(r"\b(?:por\s+(?:lo\s+)?tanto|así\s+que|por\s+eso|en\s+conclusión)\b",),
    is_it=(r"\b(?:es|son|está)\s+(?:(?:el|la|los|las|una?)\s+)?",),
    place=_places(r"\bla\s+{}\s+(?:opción|alternativa|respuesta)\b", "primera segunda tercera cuarta quinta última"),
)

LANGUAGES = {
    "en": ENGLISH,
    "zh": CHINESE,
    "ja": JAPANESE,
    "ko": KOREAN,
    "fr": FRENCH,
    "de": GERMAN,
    "es": SPANISH,
}
