"""What messaging programs write in place of what somebody said: a picture, a call, a message taken back or changed.

In the wording of WhatsApp in English, German, French, Spanish, Italian, Portuguese and Dutch, and of Instagram and
Messenger in English, German, French and Spanish.
"""

from __future__ import annotations

import re

_KINDS = (
    "media|medien|médias?|multimedia|mídia|arquivo de mídia|ficheiro|images?|imagen|imagem|immagine|bild|foto|photo|"
    "afbeelding|video|vídeo|vidéo|videonachricht|video note|audio|áudio|sticker|autocollant|figurinha|gif|document|"
    "documento|dokument|kontaktkarte|contact ?kaart|contact card|tarjeta de contacto|cartão d[oe] contato|"
    "scheda contatto|fiche contact"
)
_LEFT_OUT = (
    "omitted|weggelassen|ausgelassen|ausgeschlossen|omise?s?|absente?s?|retirée?|omitid[oa]s?|omess[oaie]|esclus[oa]|"
    "non inclus[oa]|ocultad[oa]|ocult[oa]|não revelado|weggelaten"
)
_ATTACHED = "attached|anhang|angehängt|pièce jointe|adjunto|allegato|anexado|bijgevoegd"
_FILE_ATTACHED = (
    "file attached|datei angehängt|fichier joint|archivo adjunto|file allegato|arquivo anexado|ficheiro anexado|"
    "bestand bijgevoegd"
)
# A line of its own; what is said above or below it, under a picture, stays.
_MEDIA = re.compile(
    rf"(?:<(?:{_KINDS}) (?:{_LEFT_OUT})>|(?:.{{1,120}} \u2022.{{0,30}}?)?\b(?:{_KINDS}) (?:{_LEFT_OUT})"
    rf"|<(?:{_ATTACHED})\s?: ?[^<>]+>|[^\n]+\.\w{{2,5}} \((?:{_FILE_ATTACHED})\))",
    re.IGNORECASE,
)
_INSTEAD = re.compile(
    "(?:null"
    # taken back
    "|this message was deleted(?: by admin .*)?|you deleted this message"
    "|diese nachricht wurde (?:von .* )?gelöscht|du hast diese nachricht gelöscht"
    "|ce message a été supprimé(?: par .*)?|vous avez supprimé ce message"
    "|se eliminó este mensaje|eliminaste este mensaje|este mensaje (?:fue eliminado|se eliminó)"
    "|questo messaggio è stato eliminato|hai eliminato questo messaggio"
    "|(?:esta )?mensagem (?:foi )?(?:apagada|eliminada)|(?:você )?(?:apagou|eliminou) esta mensagem"
    "|dit bericht (?:is|werd) verwijderd|(?:je|u) (?:hebt|heeft) dit bericht verwijderd"
    # calls
    "|(?:missed|silenced) (?:group )?(?:voice |video )?call(?: at .{1,12})?"
    "|(?:voice|video) call, (?:no answer|\\d.{0,20})"
    "|verpasster (?:gruppen-?)?(?:sprach|video|gruppen)?anruf(?: um .{1,12})?"
    "|(?:sprach|video)anruf, (?:keine antwort|\\d.{0,20})"
    "|appel (?:de groupe |vocal |vidéo )*manqué|(?:video)?llamada (?:grupal |de voz |de v[ií]deo )*perdida"
    "|(?:video)?chiamata (?:di gruppo |vocale |video )*persa"
    "|(?:chamada|ligação) (?:de voz |de vídeo |em grupo )*perdida"
    "|gemiste (?:groeps)?-?(?:spraak|video|audio)?-?(?:oproep|gesprek)"
    # a heart
    "|liked a message|reacted .{1,12} to your message|hat (?:mit )?.{1,12} auf deine nachricht reagiert"
    "|(?:dir )?gefällt eine nachricht|a aimé un message|a réagi (?:avec )?.{1,12} à votre message"
    "|le gustó un mensaje|reaccionó con .{1,12} a tu mensaje"
    # the program itself
    "|(?:waiting for this message|warten auf diese nachricht|en attente de ce message|esperando este mensaje)[^\\n]*"
    "|[^\\n]{0,40}(?:messages|nachrichten|mensajes|messaggi|mensagens|berichten)[^\\n]{0,60}"
    "(?:end-to-end[ -]encrypted|ende-zu-ende-verschlüsselt|chiffrés de bout en bout|cifrados de extremo a extremo"
    "|crittografia end-to-end|crittografati end-to-end|(?:criptografia|encriptadas)(?: de)? ponta a ponta"
    "|end-to-end versleuteld)[^\\n]*"
    ")\\.?",
    re.IGNORECASE,
)
_EDITED = re.compile(
    r"\s*<(?:this message was edited|diese nachricht wurde bearbeitet|ce message a été modifié|se editó este mensaje"
    r"|este mensaje (?:fue editado|se editó)|questo messaggio è stato modificato|(?:esta )?mensagem (?:foi )?editada"
    r"|dit bericht (?:is|werd) bewerkt)\.?>\s*\Z",
    re.IGNORECASE,
)


_SENT = ("sent an attachment", "hat einen Anhang gesendet", "a envoyé une pièce jointe", "envió un archivo adjunto")


def is_of_sending(text: str, author: str) -> bool:
    """Whether a message says no more than that its author sent something, as Instagram puts it."""
    return text.rstrip(".") in {f"{name} {sent}" for name in (author, "You") for sent in _SENT}


def said_in(text: str) -> str:
    """Return what somebody said in a message, without what the program put there; "" where that is nothing."""
    text = _EDITED.sub("", text.replace("\u200e", "").replace("\u200f", "").strip())
    if _INSTEAD.fullmatch(text):
        return ""
    return "\n".join(line for line in text.split("\n") if not _MEDIA.fullmatch(line.strip())).strip()
