"""CVs of people who do not exist, in the layouts that people use, and a README each of a project and of a person."""

from __future__ import annotations

HEADINGS_MD = """# Ana Ruiz Ferrer

Senior data engineer · Porto, Portugal · ana.ruiz@kettle-mail.pt · +351 912 555 017 · github.com/anaruizf

## Summary

I build pipelines that people can still read a year later. Before that I taught maths. I like small teams.

## Experience

### Senior Data Engineer, Lumen Maps (March 2021 – present)

- Moved 40 nightly jobs to one scheduler; failures fell from 11 a week to 1.
- Lead a team of three.

### Data Engineer, Bricklane Analytics (2018 – 2021)

- Built the billing pipeline in 2019.

### Maths Teacher, Escola Secundária do Bolhão (2014 – 2018)

## Education

- MSc Statistics, University of Porto, 2014
- BSc Mathematics, University of Minho, 2012

## Projects

- **Tidemark**: tells surfers in a text message when the tide turns.
- **paper-boats**: a game about rivers, written in Rust.

## Skills

- Languages: Python, SQL, Rust
- Tools: Airflow, dbt, PostgreSQL (tuning, replication)

## Languages

Portuguese (native), Spanish (C1), English (fluent)

## Interests

Surfing, choir, baking bread
"""

COLUMNS_TXT = """                              CURRICULUM VITAE

JONAS WEBER
Electrician and site supervisor
Lindenstr. 8, 50674 Cologne          Phone: 0221 555 0147
E-mail: jonas.weber@posteo.example

EMPLOYMENT
----------
2019 - present      Site supervisor           Rheinstrom GmbH, Cologne
                    - plans the work of twelve electricians
2012 - 2019         Electrician               Elektro Hansen, Bonn
2009 - 2012         Apprentice electrician    Elektro Hansen, Bonn

EDUCATION
---------
2016                Master craftsman certificate     Chamber of Crafts, Cologne
2009                Abitur                           Schiller Gymnasium, Bonn

SKILLS
------
KNX building automation; photovoltaics; fault finding
Driving licence B and C1E

LANGUAGES
---------
German      native
English     B2
Turkish     basic
"""

GERMAN_TXT = """Lebenslauf

Name: Dr. Miriam Öztürk
Wohnort: Leipzig
Telefon: +49 341 5550123
E-Mail: m.oeztuerk@mail.example

Berufserfahrung

seit 04/2020
Leiterin der Qualitätssicherung
Sachsenmilch AG, Leppersdorf

09/2015 – 03/2020
Lebensmittelchemikerin
Landeslabor Berlin-Brandenburg

Ausbildung

2010 – 2015   Promotion Lebensmittelchemie, Technische Universität Dresden
2005 – 2010   Diplom Lebensmittelchemie, Universität Leipzig

Kenntnisse
HPLC, GC-MS, LIMS, Python

Sprachen
Deutsch (Muttersprache), Türkisch (fließend), Englisch (C1)
"""

EMPLOYER_FIRST_TXT = """Grace O'Malley-Byrne
Galway, Ireland | grace.byrne@seamail.ie | 087 555 0162 | linkedin.com/in/gracebyrne

PROFILE
Registered nurse with twelve years on emergency wards.

WORK EXPERIENCE

University Hospital Galway                                   Jan 2017 - Present
Clinical Nurse Manager
• Runs a ward of 28 beds.
• Introduced a triage board in 2018 that cut waiting by 14 minutes.

St. Brendan's Hospital, Dublin                               Sept 2011 - Dec 2016
Staff Nurse

Volunteer at Sailing into Wellness, 2019 - 2021

EDUCATION AND TRAINING
BSc Nursing Studies
NUI Galway College of Nursing, 2007 - 2011

SKILLS
Triage, wound care, phlebotomy and teaching

HOBBIES
Open-water swimming, fiddle
"""

PIPES_MD = """**Kwame Boateng** | Accra, Ghana | kwame@boateng.dev | https://boateng.dev

**Experience**

**Freelance illustrator** | 2020 to date
**Art director** | Baobab Press | 2016-20
**Junior designer** | Kente Studio | 2014-16

**Education**

BFA Graphic Design, Kwame Nkrumah University of Science and Technology (2010-2014)

**Selected projects**

Anansi Retold - forty linocuts for a children's book
Market Days - a mural of 60 metres at Makola market

**Skills**: linocut, Procreate, typography, InDesign

**Languages**: English, Twi (native), French (basic)
"""

# The lines of a page as a PDF gives them, and the paragraphs of a Word file.
PDF_LINES = [
    "Mei-Ling Chow",
    "Pastry chef",
    "Vancouver, Canada",
    "mei@chowbakes.ca",
    "WORK EXPERIENCE",
    "Head pastry chef, Harbour Hotel",
    "2018 - present",
    "- Runs a team of six",
    "Baker, Granville Bakery",
    "2012 - 2018",
    "EDUCATION",
    "Diploma in Pastry Arts, Pacific Institute, 2012",
    "SKILLS",
    "Laminated doughs, chocolate, sugar work",
    "LANGUAGES",
    "English (fluent), Cantonese (native)",
]

README_MD = """[![build](https://ci.example/badge.svg)](https://ci.example)

# Tidemark: tides in a text message

Tidemark watches tide tables and sends a text message an hour before the tide turns. It runs on a Raspberry Pi.

## Features

- **Works offline**: tables for a year are kept on the card.
- Any harbour of the UK Hydrographic Office
- Quiet hours

## Requirements

Python 3.11 and a GSM stick.

## Installation

```sh
$ pip install tidemark   # in a virtual environment
tidemark init
```

## License

MIT, see LICENSE.
"""

OWN_PAGE_MD = """### Hi there, I'm Tomasz Nowak 👋

- 🔭 I'm currently working on a compiler for knitting patterns
- 🌱 I'm currently learning Rust and bobbin lace
- My cat has her own repository
"""

SPANISH_TXT = """María José García López
Ingeniera industrial
Bilbao, España · mjgarcia@correo.es · +34 600 555 014

PERFIL
Ingeniera con diez años de experiencia en energía eólica.

EXPERIENCIA PROFESIONAL
Jefa de proyecto - Vientos del Norte S.L.
Enero 2019 - actualidad
- Coordina obras en tres países.

Ingeniera de mantenimiento - Eólica Cantábrica
2013 - 2018

FORMACIÓN
Máster en Energías Renovables, Universidad del País Vasco, 2013
Grado en Ingeniería Industrial, Universidad de Oviedo, 2011

IDIOMAS
Español (nativo), Euskera (avanzado), Inglés (C1)

COMPETENCIAS
AutoCAD, SAP, gestión de obras
"""

EXPORT_TXT = """Contact
www.linkedin.com/in/priya-raman-77 (LinkedIn)

Top Skills
Product Management
Roadmapping

Languages
English (Native or Bilingual)
Tamil (Native or Bilingual)

Priya Raman
Product manager at Quillon | Ex-Brightfold
London, England, United Kingdom

Summary
I turn messy notes into products.

Experience

Quillon
Product Manager
January 2022 - Present (2 years 3 months)
London

Brightfold
Associate Product Manager
June 2019 - December 2021 (2 years 7 months)

Education
Imperial College London
Master of Science - MS, Computer Science · (2018 - 2019)
"""

FRENCH_MD = """# Chloé Dubois

**Développeuse web** — Lyon, France — chloe@dubois.example

## Expérience professionnelle

- **2021 – aujourd'hui** : Développeuse front-end chez Atelier Pixel, Lyon
- **2018 – 2021** : Intégratrice web chez Agence Nord, Lille

## Formation

- 2018 : Licence informatique, Université de Lille

## Compétences

HTML, CSS, TypeScript

## Langues

Français (langue maternelle), anglais (B2)
"""

ACADEMIC_TXT = """Prof. Dr. Samuel Okafor
Department of Geology, University of Ibadan
s.okafor@ui.example

Employment
2016-       Professor of Geology, University of Ibadan
2008-2016   Senior Lecturer, University of Lagos
2004-2008   Postdoctoral researcher, ETH Zurich

Education
PhD in Geology, University of Cambridge, 2004
MSc Earth Sciences, University of Ibadan, 1999

Publications
Okafor S. (2019) The faults of the Benue trough. J. Afr. Geol. 12, 33-51.
Okafor S., Bello T. (2015) Sandstones. Geology 3, 1-9.

Languages: English, Igbo, German (basic)
"""

LABELS_TXT = """RESUME
Name : Li Wei
Email : liwei@mail.example
Mobile : 13800138000

Career Objective
To work in a good company.

Work History
* Company: Bluewave Logistics
  Position: Warehouse supervisor
  Period: 2017 - 2020
* Company: Redline Couriers
  Position: Driver
  Period: 2014 - 2017

Skills
MS Office
Forklift licence
"""
