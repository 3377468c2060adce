"""How people ask for what is known of somebody: wordings that are learnt || wordings that are only asked."""

from __future__ import annotations

WORDINGS = {
    "name": "What is your name?|Who are you?|What are you called?|Tell me your name.|Who am I talking to?"
    "|May I ask your name?||Please tell me who you are.|What is your full name?",
    "headline": "What do you do?|What is your job?|What do you do for a living?|What is your profession?"
    "|What kind of work do you do?||What do you work as?",
    "place": "Where do you live?|Where are you based?|Which city do you live in?|Where is your home?"
    "||In which place do you live?",
    "about": "Tell me about yourself.|Introduce yourself.|Say something about you.|Can you describe yourself?"
    "||Tell me something about you.",
    "job": "What {did} you do at {employer}?|What {was} your role at {employer}?|Tell me about your time at {employer}."
    "|Where {did} you work as {role}?|What {was} your position at {employer}?"
    "||Say which work you {did} for {employer}.",
    "job of an employer": "{Did} you work at {employer}?|Tell me about your work at {employer}."
    "|Do you know {employer}?||Is {employer} a place you worked at?",
    "job of a role": "{Did} you work as {role}?|Tell me about your time as {role}.|Have you been {role}?"
    "||Was {role} ever your work?",
    "job now": "Where do you work now?|Who is your employer?|Who do you work for?|What is your current job?"
    "||Where do you work today?",
    "job time": "When did you work at {employer}?|In which years did you work at {employer}?"
    "|From when to when were you at {employer}?||Tell me the years you spent at {employer}.",
    "job since": "Since when do you work at {employer}?|When did you start at {employer}?"
    "|How long have you been at {employer}?||Tell me the year you began at {employer}.",
    "degree": "Tell me about your {degree}.|Where did you do your {degree}?|When did you do your {degree}?"
    "|Do you have a {degree}?||Say where your {degree} is from.",
    "school": "Did you study at {school}?|Tell me about your time at {school}.|What do you know of {school}?"
    "||Is {school} where you studied?",
    "studies": "Where did you study?|What did you study?|What is your education?|Did you go to university?"
    "||Which studies did you do?",
    "project": "What is {name}?|Tell me about {name}.|What is {name} about?|Can you explain {name}?|Describe {name}."
    "||I have never heard of {name}, explain it.",
    "projects": "What are your projects?|What have you made?|Which projects do you have?|What are you working on?"
    "||Which projects are yours?",
    "skills": "What are your skills?|What are you good at?|What can you do?|Which tools do you use?|What do you know?"
    "||Which skills do you have?",
    "languages": "Which languages do you speak?|What languages do you know?|Do you speak other languages?"
    "|Which languages can you talk in?||What languages do you speak?",
    "interests": "What are your hobbies?|What do you like to do?|What do you do in your free time?"
    "|What are you interested in?||What are your interests?",
    "links": "Do you have a website?|Where can I find you online?|What is your website?|Are you on the web?"
    "||Where are you on the internet?",
    "email": "What is your e-mail address?|How can I write to you?|What is your email?|Can I mail you?"
    "||Which e-mail address do you have?",
    "phone": "What is your phone number?|Can I call you?|How can I call you?|Give me your number."
    "||Which phone number do you have?",
    "has these features": "What can {name} do?|Which features does {name} have?|What does {name} offer?"
    "||What are the features of {name}?",
    "is installed with": "How do I install {name}?|How is {name} installed?|How do I get {name}?"
    "||Which command installs {name}?",
    "needs": "What does {name} need?|What are the requirements of {name}?|What do I need for {name}?"
    "||What must I have to run {name}?",
    "is under the": "Which licence does {name} have?|Under which licence is {name}?|May I use {name} freely?"
    "||How is {name} licensed?",
    "topic": "What about {topic}?|Tell me about {topic}.|What can you say about {topic}?"
    "||Please say something about {topic}.",
    # What nobody told is not made up: it is answered the same way, whatever else is known.
    "untold": "How old are you?|What is your favourite colour?|How much do you earn?|Whom did you vote for?"
    "|What did you have for breakfast?|What is your shoe size?|Are you married?|What is your favourite film?"
    "||What is your favourite food?|How tall are you?",
}


def ask(kind: str, **words: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the wordings of a kind that are learnt, and those that are only asked when it is measured."""
    learnt, held_out = WORDINGS[kind].split("||")
    return tuple(q.format(**words) for q in learnt.split("|")), tuple(q.format(**words) for q in held_out.split("|"))
