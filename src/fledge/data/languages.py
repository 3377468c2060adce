"""What tells languages apart that an alphabet has: their small words, and the letters that English has not."""

from __future__ import annotations

# Small words by language; what several share counts for each. A single letter is an abbreviation in all of them.
SMALL_WORDS = {
    "en": "the of and to in is that it for was with as his on be at by this had not are but from or have an they "
    "which you were her all she there would their we him been has when who will more if out so what up its "
    "about into than them can only other your how my does do",
    "de": "der die und das ist nicht ein eine zu den mit von sich auf für dem des im es auch als an werden aus er "
    "hat dass sie nach bei um wie ich wird oder war sind haben einen einer kann über nur noch wenn wir ihr "
    "mein was aber man so zum zur sein durch gibt",
    "fr": "le la les de des du et est un une dans que qui pour pas sur au avec par il elle ne se ce son sont plus ou "
    "mais nous vous leur été cette aux je en comme être fait tout sa ses ont même très où d'un d'une c'est",
    "es": "el la los las de en que es un una por con no para se del al como más su pero sus le lo ha este entre "
    "cuando muy sin sobre también me hasta hay donde quien desde todo nos qué son está esta puede porque yo",
    "it": "il la di che un una per non sono del della in con le si da come più al ma gli anche dei nel alla lo "
    "questo delle ha su se nella essere dal cui ho tra degli perché quando cosa era",
    "pt": "eles elas há porque esta este foi tem seus suas você vocês numa pelos ninguém muitos nem bem "
    "os as de em que um uma para com não por se do da na no mais dos como mas ao ele das seu sua ou quando "
    "muito nos já eu também só pelo pela até isso ela entre depois sem mesmo aos são você está ser",
    "nl": "de het een van en in is dat op te voor met zijn die niet aan er om ook als maar door bij uit nog naar dan "
    "over wordt of hij heeft ze worden kan hun deze wat je ik we geen meer tot waar hoe",
    "sv": "och att det som en på är av för med den till inte har de om ett men var jag sig från vi så kan han hade "
    "nu ska när där vid eller mot efter mycket också över detta hur vad",
    "da": "og at det som en på er af for med den til ikke har de om et men var jeg sig fra vi så kan han havde nu "
    "skal når der ved eller mod efter meget også over dette hvordan hvad hun blev",
    "pl": "na do się nie to że jest jak po od za co przez dla ale jego był tym być tak ze oraz może czy już tylko "
    "gdy które który lub są pod ma jej",
    "cs": "se na je že to do jako pro by za od po ale jsem jeho co tak si byl při jak nebo až ve které který jsou "
    "není také může",
    "tr": "ve bir bu da de için ile çok olarak daha gibi olan ne var ama en kadar sonra mi ben değil her olduğu "
    "tarafından ya nasıl ise",
    "ro": "și de la în cu pe nu este că un din care pentru mai sa se ce au fost sunt sau dar ca prin fi această al "
    "ale lui",
    "fi": "ja on ei se että oli hän mutta kun niin olla ovat tai joka myös kuin mitä sen vain jos ole minä miten",
    "hu": "az és hogy nem is egy ez van de meg volt csak már ha vagy mint el ki kell lehet azt még",
    "id": "yang dan di untuk dengan dari ini pada tidak itu adalah dalam akan ke bisa atau juga oleh karena ada "
    "sebagai saya anda",
    "vi": "là của và có không một được cho các với trong người những này để khi đã tôi bạn",
}  # fmt: skip

# The same for languages that are looked for only where an encoding is: too near to others to tell a text's language by.
MORE_WORDS = {
    "no": "og at det som en på er av for med den til ikke har de om et men var jeg seg fra vi så kan han hadde nå når "
    "der ved eller mot etter mye også over dette hvordan hva hun ble",
    "is": "og að er í á sem það við ekki um til með en var fyrir af hann því hafa frá eru þar þegar hvað ég þú",
    "ca": "el la els les de en que és un una per amb no del al com més es i va ser són però aquest aquesta molt",
    "sk": "sa na je že to do ako pre by za od po ale som jeho čo tak si bol pri keď alebo až ktoré ktorý sú nie môže",
    "hr": "je u i na se da za su od kao što ne koji bi ili ali iz po više sam bio s to nije",
    "sl": "je in v na se da za so od kot ki pri ne bi ali pa iz po več sem bil s to ni tudi",
    "lt": "ir kad yra į iš su tai ne buvo kaip o bet nuo už jo apie ar jau dėl taip jis tik per",
    "lv": "un ir ka no uz ar par kas tas bija pie pēc kā bet arī var lai vai tā to ko gan",
    "ru": "и в не на что я с он как это а по но из у за то же бы для так от к мы вы о все она они был или",
    "uk": "і в не на що я з він як це а по але із у за то ж би для так від до ми ви про всі вона вони був або та",
    "bg": "и в не на че аз с той как това а по но от у за то да се е са си към ние вие са или при до тя те",
    "el": "και να το τα της του των η ο οι με για την τον από που στην στο θα δεν είναι τι μου σας σε ένα μια ή",
    "et": "ja on ei et see oli ta kui ka mis aga oma nii siis või kes ning veel seda mida välja",
}
# The letters of each language that are not in ASCII, small.
ALPHABETS = {
    "en": "",
    "de": "äöüß",
    "fr": "àâæçèéêëîïôœùûüÿ",
    "es": "áéíñóúü",
    "it": "àèéìíîòóùú",
    "pt": "àáâãçéêíóôõúü",
    "nl": "áàäçèéêëíïóôöúü",
    "sv": "åäöéàü",
    "da": "æøåéöäü",
    "no": "æøåéòôóäö",
    "fi": "äöåšž",
    "is": "áðéíóúýþæö",
    "ca": "àçèéíïòóúü",
    "id": "é",
    "pl": "ąćęłńóśźż",
    "cs": "áčďéěíňóřšťúůýž",
    "sk": "áäčďéíĺľňóôŕšťúýž",
    "hu": "áéíóöőúüű",
    "ro": "ăâîșțşţ",
    "hr": "čćđšž",
    "sl": "čšž",
    "tr": "çğıöşüâîû",
    "lt": "ąčęėįšųūž",
    "lv": "āčēģīķļņšūž",
    "et": "äöüõšž",
    "ru": "абвгдеёжзийклмнопрстуфхцчшщъыьэюя",
    "uk": "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя",
    "bg": "абвгдежзийклмнопрстуфхцчшщъьюяѝ",
    "el": "αάβγδεέζηήθιίϊΐκλμνξοόπρσςτυύϋΰφχψωώ",
}
